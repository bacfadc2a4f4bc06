"""Measures the claim about growing: TREC with three labels learns three more from 5 new rows of each of the six.

A base is trained on 64 rows of each of three labels; a second job starts from it with 5 new rows of each of all six,
and a third one trains on those 30 rows alone. All are jobs of one daemon, and each answers the test file over HTTP.
Accuracies depend on the seed alone, so this script needs no rounds.

Which three labels the base has decides much: half of the test questions are DESC or ENTY, which are hard to tell apart,
and 5 rows of either do not teach it. The claim is judged with labels that are drawn for each seed. `--labels frequent`
grows the three that have the most rows, and `--labels first` the first three by name, ABBR, DESC and ENTY: both have
these two among them.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
import numpy as np

from benchmarks.appliance import Appliance, Connection
from benchmarks.few_shot import Row, agreement, read
from benchmarks.runner import FAIL, PASS, describe_machine, table

SET = "trec6"
BASE_LABELS = 3
BASE_ROWS = 64
NEW_ROWS = 5
TEXTS = 500
CLAIM = 0.87


def draws(rows: Sequence[Row], seed: int, which: str) -> tuple[list[Row], list[Row]]:
    """Return the base's rows of three labels, and the new rows of all; none is in both.

    `which` labels those are: "drawn", the most "frequent", or the "first" by name.
    """
    random = np.random.default_rng(seed)
    counts = Counter(row.label for row in rows)
    labels = random.permutation(sorted(counts)).tolist()
    if which == "frequent":
        labels = [label for label, _ in counts.most_common()]
    if which == "first":
        labels.sort()
    base, new = [], []
    for number, label in enumerate(labels):
        own = [row for row in rows if row.label == label]
        own = [own[place] for place in random.permutation(len(own))]
        new += own[:NEW_ROWS]
        base += own[NEW_ROWS : NEW_ROWS + BASE_ROWS] if number < BASE_LABELS else []
    return base, new


def train(connection: Connection, name: str, rows: Sequence[Row], seed: int, **more: Any) -> dict[str, Any]:
    """Run a job to its end and return it."""
    body = {"suffix": name, "seed": seed, "training_file": "", "training_data": msgspec.to_builtins(rows), **more}
    return connection.finish(connection.call("POST", "/v1/fine_tuning/jobs", body), poll=0.2)[0]


def accuracy(connection: Connection, model: str, test: Sequence[Row]) -> float:
    """Return a model's accuracy on the test rows."""
    found: list[str] = []
    for start in range(0, len(test), TEXTS):
        asked = {"model": model, "texts": [row.text for row in test[start : start + TEXTS]], "fields": ["label"]}
        found += [each["label"] for each in connection.call("POST", "/v1/reflex/predict", asked)["predictions"]]
    return agreement(found, [row.label for row in test])


def main() -> int:
    """Run, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--labels", choices=("drawn", "frequent", "first"), default="drawn", help="the base's")
    parser.add_argument("--backbone", type=Path, nargs="+", default=(), help="an encoder's directory, or its wheels")
    arguments = parser.parse_args()
    print(describe_machine())
    pool, test = read(SET, "train"), read(SET, "test")
    lines, grown, cold = [], [], []
    appliance = Appliance()
    appliance.backbone = arguments.backbone
    with appliance as daemon:
        connection = daemon.connect()
        for seed in range(arguments.seeds):
            base, new = draws(pool, seed, arguments.labels)
            train(connection, f"base-{seed}", base, seed)
            job = train(connection, f"grown-{seed}", new, seed, base_model=f"base-{seed}")
            train(connection, f"cold-{seed}", new, seed)
            grown.append(accuracy(connection, f"grown-{seed}", test))
            cold.append(accuracy(connection, f"cold-{seed}", test))
            encoder = job["result"]["recipe"]["encoder"]
            lines.append([str(seed), f"{grown[-1]:.3f}", f"{cold[-1]:.3f}", encoder])
            print(*lines[-1], flush=True)
    lines.append(["mean", f"{fmean(grown):.3f}", f"{fmean(cold):.3f}", ""])
    print(table(["seed", f"grown from {BASE_LABELS} labels", "cold", "encoder of the grown one"], lines))
    held = fmean(grown) >= CLAIM
    print(f"claimed: a mean of at least {CLAIM}: {'PASS' if held else 'FAIL'}")
    return PASS if held else FAIL


if __name__ == "__main__":
    sys.exit(main())
