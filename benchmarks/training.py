"""Measures the quality of training: test accuracy and processor time beside SetFit, TF-IDF, a frozen encoder and more.

`run` measures cells (side, set, rows a label, seed), each a line of the results file; cells that are there are skipped.
`table` compares what the file holds and judges the claims; `plot` draws accuracy against processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from benchmarks.runner import PASS, describe_machine
from benchmarks.training_cells import (
    ALL,
    MULTI_LABEL,
    ROWS,
    SEEDS,
    SETS,
    SIDES,
    Cell,
    Example,
    Line,
    append,
    cells,
    load,
    missing,
    read_results,
    training_rows,
)
from benchmarks.training_ours import Ours
from benchmarks.training_plot import draw, points
from benchmarks.training_report import tell
from benchmarks.training_scores import debiased_ece

SAID = ("accuracy", "n", "method", "interval", "recipe")
"""What is kept of a job's result."""
MANY_ROWS_SECONDS = 600.0
"""What ours asks for with 64 rows a label and all rows, where full fine-tuning takes minutes too."""

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
}


def peer(python: str, request: dict[str, Any]) -> dict[str, Any]:
    """Have a peer do one training in a process of its own."""
    command = [python, "-m", "benchmarks.training_peers"]
    root = Path(__file__).parents[1]
    given = json.dumps(request).encode()
    done = subprocess.run(
        command, input=given, stdout=subprocess.PIPE, env=os.environ | ONE_THREAD, cwd=root, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def judge(cell: Cell, train: Sequence[Example], test: Sequence[Example], found: dict[str, Any]) -> Line:
    """Score what a side answered."""
    predicted, truth = [set(labels) for labels in found["predicted"]], [set(row.labels) for row in test]
    correct = "".join("01"[a == b] for a, b in zip(predicted, truth, strict=True))
    names = sorted({label for row in [*train, *test] for label in row.labels})
    binarizer = MultiLabelBinarizer(classes=names)
    macro = f1_score(binarizer.fit_transform(truth), binarizer.transform(predicted), average="macro", zero_division=0.0)
    confidences, own = found.get("confidences"), found.get("result")
    multi = cell.set == MULTI_LABEL
    return Line(
        **msgspec.structs.asdict(cell),
        n_train=len(train),
        n_test=len(test),
        accuracy=correct.count("1") / len(test),
        macro_f1=float(macro),
        core_seconds=found["core_seconds"],
        wall=found["wall"],
        correct=correct,
        ece=None if confidences is None else round(debiased_ece(confidences, [each == "1" for each in correct]), 5),
        result=None if own is None else {name: own[name] for name in SAID if name in own},
        at_training_shares=None if multi else at_shares(correct, test, train),
        notes=found["notes"],
        versions=found["versions"],
        date=time.strftime("%Y-%m-%d %H:%M"),
        machine=describe_machine(),
    )


def at_shares(correct: str, test: Sequence[Example], train: Sequence[Example]) -> float:
    """Return the accuracy that the test rows would give if their labels had the shares that the training rows have."""
    shares = Counter(row.labels[0] for row in train)
    there = Counter(row.labels[0] for row in test)
    weights = [shares[row.labels[0]] / there[row.labels[0]] for row in test]
    return sum(w for w, c in zip(weights, correct, strict=True) if c == "1") / sum(weights)


def run(arguments: argparse.Namespace) -> None:
    """Measure every wanted cell that the results file lacks."""
    wanted = cells(arguments.sides, arguments.sets, arguments.rows, arguments.seeds)
    todo = list(missing(wanted, read_results(arguments.results)))
    print(f"{len(wanted)} cells, {len(wanted) - len(todo)} of them there already", flush=True)
    with ExitStack() as stack:
        ours: Ours | None = None
        for cell in todo:
            train, test = training_rows(cell.set, cell.rows, cell.seed), load(cell.set, "test")
            texts, multi = [row.text for row in test], cell.set == MULTI_LABEL
            if cell.side == "ours":
                ours = ours or stack.enter_context(Ours())
                budget = MANY_ROWS_SECONDS if cell.rows in ("64", ALL) else None
                found = ours.answer(cell.seed, train, texts, multi, budget)
            else:
                request = {"side": cell.side, "seed": cell.seed, "test": texts, "multi": multi}
                found = peer(arguments.peers_python, request | {"train": msgspec.to_builtins(train)})
            line = judge(cell, train, test, found)
            append(arguments.results, line)
            said = f"accuracy {line.accuracy:.4f}, macro-F1 {line.macro_f1:.4f}, {line.core_seconds:.2f} core-s"
            print(f"{cell.set}, {cell.rows} rows a label, seed {cell.seed}, {cell.side}: {said}", flush=True)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = argparse.ArgumentParser(description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    measured = commands.add_parser("run", help="measure the cells that the results file lacks")
    measured.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    measured.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    measured.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS, help="a label; all: the whole train file")
    measured.add_argument("--seeds", nargs="+", type=int, choices=SEEDS, default=SEEDS)
    measured.add_argument("--peers-python", default=sys.executable, help="interpreter of the peers' environment")
    told = commands.add_parser("table", help="compare the sides and judge the claims; 1 where one does not hold")
    drawn = commands.add_parser("plot", help="draw accuracy against processor time")
    drawn.add_argument("--out", type=Path, required=True, help="an SVG file")
    for command in (measured, told, drawn):
        command.add_argument("--results", type=Path, required=True, help="JSON lines, one a cell")
    return top


def main() -> int:
    """Do what the command line says and return the exit status."""
    arguments = parser().parse_args()
    if arguments.command == "run":
        run(arguments)
    elif arguments.command == "table":
        return tell(read_results(arguments.results))
    else:
        arguments.out.write_text(draw(points(read_results(arguments.results))))
    return PASS


if __name__ == "__main__":
    sys.exit(main())
