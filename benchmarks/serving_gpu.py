"""Measures serving on a GPU: a lone request against the bare forward there, and a hundred classifiers on one text.

`python -m benchmarks.serving_gpu`. The daemon serves in bf16. The bare forward is that of transformers with the same
weights in bf16, its token ids given: they go onto the GPU and one pooled vector comes back, one text at a time. Without
a GPU that torch sees there is nothing to measure, and the script ends with 3.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AutoModel
from transformers.utils.logging import disable_progress_bar

from benchmarks.appliance import Appliance, checkpoint_folder
from benchmarks.process import Process, serve
from benchmarks.quick_start import BODY
from benchmarks.runner import FAIL, PASS, VOID, add_arguments, describe_machine, options_of, table
from benchmarks.serving_fleet import publish_copies
from benchmarks.serving_parts import Ground, claim, latencies
from benchmarks.serving_texts import exactly

CLASSIFIERS = 100
LONE, MANY = 1.4, 1.25


class Bare:
    """The bare forward of a checkpoint."""

    def __init__(self, folder: Path, device: str) -> None:
        disable_progress_bar()
        self._device = device
        self._model = AutoModel.from_pretrained(
            folder, dtype=torch.bfloat16, local_files_only=True, use_safetensors=True
        ).eval()
        self._model.to(device)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def ids(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        found: list[int] = self._tokenizer.encode(text).ids
        return found

    def vector(self, ids: list[int]) -> NDArray[np.float32]:
        """Return the mean of the last layer [width] in single precision; it is here when this returns."""
        with torch.inference_mode():
            row = torch.tensor([ids], device=self._device)
            hidden = self._model(input_ids=row, attention_mask=torch.ones_like(row)).last_hidden_state
            out: NDArray[np.float32] = hidden[0].float().mean(dim=0).cpu().numpy()
        return out

    def __call__(self, text: str, times: int) -> list[float]:
        """Return the seconds of each of so many forwards of one text; spelling it is not counted."""
        ids, took = self.ids(text), []
        for _ in range(times):
            started = time.perf_counter()
            self.vector(ids)
            took.append(time.perf_counter() - started)
        return took


def measure(arguments: argparse.Namespace) -> int:
    """Run the two comparisons, print them, and return the exit status."""
    heads = [f"head-{number}" for number in range(CLASSIFIERS)]
    text = exactly(64)
    with Appliance(BACKBONE__PRECISION="bf16", LIMITS__TEXTS="10000") as daemon:
        connection = daemon.connect()
        connection.finish(connection.call("POST", "/v1/fine_tuning/jobs", BODY | {"suffix": "base"}))
        daemon.change(partial(publish_copies, name="base", prefix="head", count=CLASSIFIERS))
        daemon.rest()
        with (
            Process("benchmarks.serving_load") as load,
            Process("benchmarks.serving_gpu", "--bare", str(checkpoint_folder())) as bare,
        ):
            ground = Ground(daemon, load, bare, options_of(arguments), {}, arguments.requests)
            ground.target("one", [{"model": "head-0", "text": text}])
            ground.target("many", [{"models": heads, "text": text}])
            one, many = partial(ground.lone, "one"), partial(ground.lone, "many")

            def forward() -> list[float]:
                return [1e3 * seconds for seconds in bare.ask(text=text, times=ground.requests)]

            report, _ = latencies(ground, "64 tokens, one client", {"bare forward": forward, "reflexd": one})
            findings = [claim(report, "one client, p50 to the bare forward", report.ratios["reflexd"], LONE)]
            name = f"{CLASSIFIERS} classifiers"
            report, _ = latencies(ground, "classifiers on one text of 64 tokens", {"one classifier": one, name: many})
            findings.append(claim(report, f"{name} to one", report.ratios[name], MANY))
    rows = [[one.what, one.value, one.bound, {True: "PASS", False: "FAIL", None: ""}[one.holds]] for one in findings]
    print(f"\nserving on {torch.cuda.get_device_name()}, {describe_machine()}")
    print(table(["what", "measured", "claimed", ""], rows))
    return FAIL if any(one.holds is False for one in findings) else PASS


def main(given: Sequence[str] | None = None) -> int:
    """Run, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    parser.add_argument("--requests", type=int, default=200, help="of one client in one measurement")
    parser.add_argument("--bare", type=Path, metavar="FOLDER", help="be the bare side, of a checkpoint's folder")
    arguments = parser.parse_args(given)
    if not torch.cuda.is_available():
        print("torch sees no GPU: nothing was measured")
        return VOID
    if arguments.bare:
        serve(Bare(arguments.bare, "cuda"))
        return PASS
    return measure(arguments)


if __name__ == "__main__":
    sys.exit(main())
