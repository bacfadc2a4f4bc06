"""Measures what int8 costs: the same heads on the same rows in both precisions, over the benchmark sets.

`python -m benchmarks.serving_precision`: on each set, 16 rows a label drawn by two seeds, a head fitted on what each
precision makes of them (as the product does: on the vectors that will be served), and 1,000 test rows. Accuracy, and
the share of test rows whose label differs. The claim: the mean accuracy of int8 is within .3 points of that of fp32.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from statistics import fmean

import numpy as np

from benchmarks.appliance import checkpoint_folder, exported_folder
from benchmarks.few_shot import draw, read
from benchmarks.runner import FAIL, PASS, describe_machine, table
from benchmarks.training_cells import SINGLE_LABEL
from reflexd.config import load_config
from reflexd.engine import backbone
from reflexd.engine.encoder import Encoder
from reflexd.engine.heads import fit_head, logits_of
from reflexd.plugins import PluginManager

ROWS, TEST_ROWS, SEEDS = 16, 1_000, (0, 1)
PRECISIONS = ("int8", "fp32")
MOST_POINTS = 0.3
THREADS = 2


def encoder_of(precision: str) -> Encoder:
    """Return the embedded encoder in a precision, exporting it where it is missing."""
    checkpoint = PluginManager([]).checkpoints[load_config()[0].training.backbone]
    folder: Path = exported_folder(precision)
    asyncio.run(backbone.export(checkpoint, checkpoint_folder(), folder, precision))
    return Encoder(folder)


def main() -> int:
    """Run, print, and return the exit status."""
    encoders = {precision: encoder_of(precision) for precision in PRECISIONS}
    rows, costs, flips = [], [], []
    for name in SINGLE_LABEL:
        test = read(name, "test")
        places = np.random.default_rng(0).permutation(len(test))[:TEST_ROWS]
        test = [test[place] for place in places]
        tests = {p: e.embed_all([row.text for row in test], THREADS)[0] for p, e in encoders.items()}
        found: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
        differing = []
        for seed in SEEDS:
            train = draw(read(name, "train"), ROWS, seed)
            labels = sorted({row.label for row in train})
            truth = np.array([labels.index(row.label) if row.label in labels else -1 for row in test])
            targets = np.array([labels.index(row.label) for row in train])
            said = {}
            for precision, encoder in encoders.items():
                vectors = encoder.embed_all([row.text for row in train], THREADS)[0]
                said[precision] = logits_of(fit_head(vectors, targets, len(labels)), tests[precision]).argmax(axis=1)
                found[precision].append(float(np.mean(said[precision] == truth)))
            differing.append(float(np.mean(said["int8"] != said["fp32"])))
        means = {precision: fmean(found[precision]) for precision in PRECISIONS}
        costs.append(100 * (means["fp32"] - means["int8"]))
        flips.append(fmean(differing))
        rows.append([name, f"{means['int8']:.4f}", f"{means['fp32']:.4f}", f"{-costs[-1]:+.2f}", f"{flips[-1]:.1%}"])
        print(*rows[-1], flush=True)
    cost = fmean(costs)
    rows.append(["mean", "", "", f"{-cost:+.2f}", f"{fmean(flips):.1%}"])
    print(f"int8 and fp32, {ROWS} rows a label, {len(SEEDS)} draws, {describe_machine()}")
    print(table(["set", "int8", "fp32", "points", "labels that differ"], rows))
    print("PASS" if cost <= MOST_POINTS else "FAIL")
    return PASS if cost <= MOST_POINTS else FAIL


if __name__ == "__main__":
    sys.exit(main())
