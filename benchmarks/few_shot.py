"""Measures the claims about few rows: test accuracy through the API, how near `result.accuracy` is, what int8 costs.

Some rows a label are drawn by seed from a set's train file; a real daemon trains on them and answers every text of the
test file over HTTP. Beside it, on the same rows, a bare script with the same recipe: transformers in fp32, ONNX Runtime
in fp32, and in int8 with the daemon's own exported encoder. Accuracies depend on the seed alone, and processor seconds
are one thread's, so this script needs no rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

from benchmarks.appliance import Appliance, checkpoint_folder, exported_folder
from benchmarks.process import Process
from benchmarks.runner import FAIL, PASS, describe_machine, table
from reflexd.config import load_config
from reflexd.engine import backbone
from reflexd.plugins import PluginManager

DATA = Path(__file__).parents[2] / "shared" / "data" / "benchmarks"
SETS = {"banking77": 5, "trec6": 8, "sst2": 8, "snips": 8, "clinc150": 8}
"""Data sets and the rows a label that are drawn from each."""
CLAIMS = {"banking77": (0.78, 0.05)}
"""The least mean accuracy, and the largest mean distance of result.accuracy to it; other sets are only reported."""
PRODUCT = "daemon, int8"


class Row(Struct, frozen=True):
    """One labelled text."""

    text: str
    label: str


class Score(Struct, frozen=True):
    """What one side did with one draw; core_seconds of training and of one test text."""

    side: str
    accuracy: float
    train_core_seconds: float
    predict_core_milliseconds: float
    claimed: float | None = None
    """The job's own result.accuracy."""
    predicted: list[str] = []


def read(name: str, part: str) -> list[Row]:
    """Read all rows of a set's train or test file."""
    with gzip.open(DATA / name / f"{part}.jsonl.gz") as file:
        return msgspec.json.Decoder(Row).decode_lines(file.read())


def draw(rows: Sequence[Row], per_label: int, seed: int) -> list[Row]:
    """Return `per_label` rows of each label, drawn without replacement; the seed alone decides."""
    random = np.random.default_rng(seed)
    of_label: dict[str, list[Row]] = {}
    for row in rows:
        of_label.setdefault(row.label, []).append(row)
    shuffled = {label: random.permutation(len(of_label[label])) for label in sorted(of_label)}
    return [of_label[label][i] for label, places in shuffled.items() for i in places[:per_label]]


def product(daemon: Appliance, train: Sequence[Row], test: Sequence[Row], seed: int) -> Score:
    """Train and predict through the API."""
    daemon.rest()
    connection = daemon.connect()
    before = daemon.core_seconds()
    body = {"suffix": "few-shot", "seed": seed, "training_file": "", "training_data": msgspec.to_builtins(train)}
    job, _ = connection.finish(connection.call("POST", "/v1/fine_tuning/jobs", body), poll=0.1)
    daemon.rest()
    trained = daemon.core_seconds()
    model = job["fine_tuned_model"]
    answers = [connection.call("POST", "/v1/reflex/predict", {"model": model, "text": row.text}) for row in test]
    predicted = [answer["label"] for answer in answers]
    return Score(
        PRODUCT,
        agreement(predicted, [row.label for row in test]),
        trained - before,
        (daemon.core_seconds() - trained) / len(test) * 1e3,
        claimed=job["result"]["accuracy"],
        predicted=predicted,
    )


def bare(side: str, process: Process, train: Sequence[Row], per_text: float) -> Score:
    """Train and predict in a bare script, which has the test set's vectors already."""
    fitted = process.ask(do="fit", texts=[row.text for row in train], labels=[row.label for row in train])
    scored = process.ask(do="accuracy")
    return Score(side, scored["accuracy"], fitted["core_seconds"], per_text, predicted=scored["predicted"])


def agreement(predicted: Sequence[str], truth: Sequence[str]) -> float:
    """Return the share of equal labels."""
    return fmean(a == b for a, b in zip(predicted, truth, strict=True))


def run_set(name: str, per_label: int, draws: int, seed: int, daemon: Appliance, sides: dict[str, Process]) -> bool:
    """Measure one data set and print its table; return whether the claims hold."""
    pool, test = read(name, "train"), read(name, "test")
    embedded = {side: process.ask(do="test", **columns(test)) for side, process in sides.items()}
    per_text = {side: answer["core_seconds"] / len(test) * 1e3 for side, answer in embedded.items()}
    scores: dict[str, list[Score]] = {}
    for number in range(seed, seed + draws):
        train = draw(pool, per_label, number)
        found = [bare(side, process, train, per_text[side]) for side, process in sides.items()]
        for score in [product(daemon, train, test, number), *found]:
            scores.setdefault(score.side, []).append(score)
    print(f"\n{name}: {per_label} rows a label, {len(test)} test rows, {draws} draws from seed {seed}")
    print(layout(scores))
    ours = scores[PRODUCT]
    accuracy = fmean(s.accuracy for s in ours)
    off = fmean(abs(s.claimed - s.accuracy) for s in ours if s.claimed is not None)
    print(f"accuracy {accuracy:.4f}, result.accuracy off by {off:.4f}", end="")
    if name not in CLAIMS:
        print(" (no claim)")
        return True
    least, most = CLAIMS[name]
    held = accuracy >= least and off <= most
    print(f"; claimed: at least {least}, off by at most {most}: {'PASS' if held else 'FAIL'}")
    return held


def layout(scores: dict[str, list[Score]]) -> str:
    """Lay out the sides' means, each draw's accuracy, and how often the side's labels are the daemon's."""
    rows = []
    for side, each in scores.items():
        same = fmean(agreement(a.predicted, b.predicted) for a, b in zip(each, scores[PRODUCT], strict=True))
        claimed = [f"{s.claimed:.4f}" for s in each if s.claimed is not None]
        rows.append(
            [
                side,
                f"{fmean(s.accuracy for s in each):.4f}",
                " ".join(f"{s.accuracy:.4f}" for s in each),
                " ".join(claimed) or "-",
                f"{same:.4f}",
                f"{fmean(s.train_core_seconds for s in each):.2f}",
                f"{fmean(s.predict_core_milliseconds for s in each):.2f}",
            ]
        )
    heads = ["side", "accuracy", "draws", "result.accuracy", "same label", "train core-s", "predict core-ms a text"]
    return table(heads, rows)


def columns(rows: Sequence[Row]) -> dict[str, Any]:
    """Return rows as two lists."""
    return {"texts": [row.text for row in rows], "labels": [row.label for row in rows]}


def export_fp32() -> Path:
    """Return the fp32 encoder's folder, exported as the daemon would export it where it is not in the cache yet."""
    folder = exported_folder("fp32")
    if backbone.read_description(folder) is None:
        checkpoint = PluginManager([]).checkpoints[load_config()[0].training.backbone]
        asyncio.run(backbone.export(checkpoint, checkpoint_folder(), folder, "fp32"))
    return folder


def main() -> int:
    """Run, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", help=f"of {', '.join(SETS)} (default banking77)")
    parser.add_argument("--rows-per-label", type=int, help="default 5 for banking77 and 8 for the others")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the first draw")
    arguments = parser.parse_args()
    print(describe_machine())
    with (
        Appliance() as daemon,
        Process("benchmarks.bare", "--torch", str(checkpoint_folder())) as full,
        Process("benchmarks.bare", str(export_fp32())) as fp32,
        Process("benchmarks.bare", str(exported_folder("int8"))) as int8,
    ):
        sides = {"bare transformers, fp32": full, "bare ONNX Runtime, fp32": fp32, "bare ONNX Runtime, int8": int8}
        held = [
            run_set(name, arguments.rows_per_label or SETS[name], arguments.draws, arguments.seed, daemon, sides)
            for name in arguments.sets or ["banking77"]
        ]
    return PASS if all(held) else FAIL


if __name__ == "__main__":
    sys.exit(main())
