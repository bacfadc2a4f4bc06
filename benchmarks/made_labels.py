"""Decides what rows that nobody labelled are worth: `label_data` and `generate` on CLINC150, with SmolLM2-135M.

    python -m benchmarks.made_labels label_data --llm PATH [--seed 7]
    python -m benchmarks.made_labels generate --llm PATH [--seed 7]
    python -m benchmarks.made_labels volume --llm PATH

PATH is what `reflexd llm import` takes. Of each class the product is told a line (label_lines.py) and no row. The true
labels of the training rows are used to count what is right, and for the classifier that is trained on them beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.appliance import Appliance, Connection, exported_folder
from benchmarks.few_shot import Row, read
from benchmarks.label_lines import LINES
from reflexd.config import Llm
from reflexd.engine.device import Device
from reflexd.engine.encoder import Encoder
from reflexd.engine.llm import launch
from reflexd.engine.llm.client import Client
from reflexd.engine.llm.keeper import Keeper
from reflexd.registry.data_directory import DataDirectory
from reflexd_plugins import noisy_channel
from reflexd_plugins.label_words import described
from reflexd_plugins.noisy_channel import Question

SAMPLE = 60
"""Texts that the LLM alone judges under every label."""
BATCH = 100
VOLUME = 20_000


def main() -> int:
    """Run one of them; exit 0 where the claim holds, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["label_data", "generate", "volume"])
    parser.add_argument("--llm", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--each", type=int, default=25, help="rows that generate writes for each label")
    parser.add_argument("--engine", default="auto", choices=["auto", "vllm", "transformers"])
    parser.add_argument("--vllm", type=Path, help="a data directory's llm folder with an installed vLLM")
    given = parser.parse_args()
    with Appliance(LLM__ENGINE=given.engine, TRAINING__NICE="0") as daemon:
        if given.vllm is not None:
            link(given.vllm, daemon.data_dir / "llm")
        verb = [sys.executable, "-m", "reflexd", "llm", "import", str(given.llm), "--data-dir", str(daemon.data_dir)]
        subprocess.run(verb, check=True)
        connection = Connection(daemon.port, daemon.key)
        work = {"label_data": label_data, "generate": generate, "volume": volume}[given.what]
        return 0 if work(daemon, connection, given) else 1


def link(installed: Path, target: Path) -> None:
    """Let a data directory use the vLLM of another one."""
    folder = (installed / "vllm").resolve()
    (target / folder.name).symlink_to(folder)
    (target / "vllm").symlink_to(folder.name)


def classes(count: int, seed: int) -> list[str]:
    """Draw classes of CLINC150."""
    every = sorted({row.label for row in read("clinc150", "train")} - {"oos"})
    return random.Random(seed).sample(every, count)


def rows_of(labels: list[str], part: str) -> list[Row]:
    """Return the rows of these classes."""
    return [row for row in read("clinc150", part) if row.label in labels]


def label_data(daemon: Appliance, connection: Connection, given: argparse.Namespace) -> bool:
    """Made labels against the true ones, the nearest description and the LLM alone; and what is trained on either."""
    labels = classes(10, given.seed)
    train, test = rows_of(labels, "train"), rows_of(labels, "test")
    random.Random(given.seed).shuffle(train)
    truth = {row.text: row.label for row in train}
    lines = {label: LINES[label] for label in labels}
    took, made = run(connection, labels, {"label_data": {"texts": list(truth), "label_descriptions": lines}}, "made")
    right = float(np.mean([truth[row["text"]] == row["label"] for row in made]))
    nearest = zero_shot(list(truth), list(lines.values()), [labels.index(label) for label in truth.values()])
    alone = asyncio.run(llm_alone(daemon, given, list(truth)[:SAMPLE], labels, lines, truth))
    connection.finish(connection.call("POST", "/v1/fine_tuning/jobs", {"training_data": train, "suffix": "true"}))
    ours, theirs = (accuracy(connection, name, test) for name in ("made", "true"))
    print(f"seed {given.seed}: {len(made)} of {len(truth)} texts labelled in {took:.0f} s, {right:.4f} right")
    print(f"nearest description {nearest:.4f}, the LLM alone {alone:.4f} (of {SAMPLE} texts)")
    print(f"test accuracy: trained on made labels {ours:.4f}, on true ones {theirs:.4f}")
    return right >= max(0.90, nearest + 0.02, alone + 0.02)


def generate(_: Appliance, connection: Connection, given: argparse.Namespace) -> bool:
    """A classifier of written rows against the nearest name and the nearest description."""
    labels = classes(6, given.seed)
    test = rows_of(labels, "test")
    description = "what people write to an assistant\n" + "\n".join(f"{label}: {LINES[label]}" for label in labels)
    asked = {"generate": {"description": description, "examples_per_label": given.each}}
    took, made = run(connection, labels, asked, "written")
    ours, texts = accuracy(connection, "written", test), [row.text for row in test]
    truth = [labels.index(row.label) for row in test]
    names = zero_shot(texts, [label.replace("_", " ") for label in labels], truth)
    lines = zero_shot(texts, [LINES[label] for label in labels], truth)
    print(f"seed {given.seed}: {len(made)} rows written in {took:.0f} s ({len(made) / took:.2f} a second)")
    print(f"test accuracy {ours:.4f}; nearest name {names:.4f}, nearest description {lines:.4f}")
    return ours > max(names, lines)


def volume(_: Appliance, connection: Connection, given: argparse.Namespace) -> bool:
    """How long the most texts take that may be given: CLINC150's and, to fill them up, these with a number behind."""
    labels = classes(10, given.seed)
    texts = [row.text for row in read("clinc150", "train")]
    texts += [f"{text} {number}" for number in range(2) for text in texts]
    lines = {label: LINES[label] for label in labels}
    asked = {"label_data": {"texts": texts[:VOLUME], "label_descriptions": lines}}
    took, made = run(connection, labels, asked, "volume")
    print(f"{VOLUME} texts in {took:.0f} s; {len(made)} of them fit one of ten labels")
    return took <= 1800


def run(
    connection: Connection, labels: list[str], asked: dict[str, Any], name: str
) -> tuple[float, list[dict[str, Any]]]:
    """Run a job; return the seconds until its rows were made, and these."""
    began = time.perf_counter()
    job = connection.call("POST", "/v1/fine_tuning/jobs", {"labels": labels, "suffix": name, **asked})
    job, seen = connection.finish(job, 0.2)
    took = seen["training"] - began
    for event in connection.call("GET", f"/v1/fine_tuning/jobs/{job['id']}/events?limit=100")["data"]:
        print(f"  {event['message']}")
    _, content = connection.exchange("GET", f"/v1/files/{job['result_files'][0]}/content")
    return took, msgspec.json.Decoder(dict[str, Any]).decode_lines(content)


def accuracy(connection: Connection, model: str, test: list[Row]) -> float:
    """Return how often a model is right."""
    right = 0
    for start in range(0, len(test), BATCH):
        part = test[start : start + BATCH]
        body = {"model": model, "texts": [row.text for row in part], "fields": ["label"]}
        found = connection.call("POST", "/v1/reflex/predict", body)["predictions"]
        right += sum(one["label"] == row.label for one, row in zip(found, part, strict=True))
    return right / len(test)


def zero_shot(texts: list[str], about: list[str], truth: list[int]) -> float:
    """Return how often the nearest of the descriptions is that of the text's own label."""
    encoder = Encoder(exported_folder("int8"))
    width = encoder.description.width
    vectors, anchors = (encoder.embed_all(each, 2)[0][:, :width] for each in (texts, about))
    return float(np.mean((vectors @ anchors.T).argmax(axis=1) == truth))


async def llm_alone(
    daemon: Appliance,
    given: argparse.Namespace,
    texts: list[str],
    labels: list[str],
    lines: dict[str, str],
    truth: dict[str, str],
) -> float:
    """Return how often the LLM's noisy channel is right without the encoder, calibrated over its texts."""
    root = DataDirectory(daemon.data_dir).llm
    options = Llm(engine=given.engine)
    keeper = Keeper(options, lambda: launch.find_model(options, root, 0), root / "benchmark.log", Device(False))
    try:
        async with keeper.lease() as access:
            with tempfile.TemporaryDirectory() as folder:
                client = Client(access, Path(folder), threading.Event())
                prompts = [noisy_channel.prompt(one) for one in described(labels, None, lines)]
                asked = [
                    Question(f"{label}-{place}", text, label)
                    for label in range(len(labels))
                    for place, text in enumerate(texts)
                ]
                found = await asyncio.to_thread(
                    lambda: np.array(list(noisy_channel.likelihoods(client, "alone", asked, prompts)))
                )
    finally:
        await keeper.close()
    likely = found.reshape(len(labels), len(texts)).T
    # What a label makes likely whatever the text says is taken off: without it, one label has them all.
    likely = likely - likely.mean(axis=0)
    return float(np.mean([labels[one] == truth[text] for one, text in zip(likely.argmax(axis=1), texts, strict=True)]))


if __name__ == "__main__":
    sys.exit(main())
