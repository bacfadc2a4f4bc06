"""Decides how the outcomes of training are told: a table of every set and size, the honesty of ours, the verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from benchmarks.runner import FAIL, PASS, table
from benchmarks.training_cells import MULTI_LABEL, ROWS, SETS, SIDES, Line
from benchmarks.training_claims import Outcomes, covers, gap, judge


def sides_table(outcomes: Outcomes) -> str:
    """Lay out the mean accuracy (macro-F1 of the multi-label set) and core-seconds of each side, set and size.

    A figure of fewer seeds than another one of its row says of how many, in parentheses.
    """
    rows = []
    for name in SETS:
        for size in ROWS:
            found = {side: list(outcomes.seeds(side, name, size).values()) for side in SIDES}
            if any(found.values()):
                most = max(map(len, found.values()))
                rows.append([f"{name} {size}", *(figures(lines, most) for lines in found.values())])
    return table(["set, rows a label", *(f"{side}: core-s" for side in SIDES)], rows)


def figures(lines: Sequence[Line], most: int) -> str:
    """Return one side's figures."""
    if not lines:
        return "-"
    quality = fmean(line.macro_f1 if line.set == MULTI_LABEL else line.accuracy for line in lines)
    of = f" ({len(lines)})" if len(lines) < most else ""
    return f"{quality:.4f}: {fmean(line.core_seconds for line in lines):.2f}{of}"


def honesty_table(outcomes: Outcomes) -> str:
    """Lay out, for each run of ours, what the job said of itself and what the test rows say.

    The drawn rows have other shares of labels than the test rows; "at its shares" is the test accuracy where the labels
    are weighted as in the rows that the job was given, which is what the job could estimate.
    """
    rows = []
    for name in SETS:
        for size in ROWS:
            for seed, line in outcomes.seeds("ours", name, size).items():
                apart = gap(line)
                low, high = (line.result or {}).get("interval") or (float("nan"), float("nan"))
                rows.append(
                    [
                        f"{name} {size} seed {seed}",
                        f"{line.accuracy:.4f}",
                        "-" if line.at_training_shares is None else f"{line.at_training_shares:.4f}",
                        "-" if apart is None else f"{line.accuracy + apart:.4f}",
                        f"{low:.4f} to {high:.4f}",
                        "yes" if covers(line) else "no",
                        "-" if apart is None else f"{apart:+.4f}",
                        "-" if line.ece is None else f"{line.ece:.4f}",
                    ]
                )
    heads = ["run", "test accuracy", "at its shares", "result.accuracy", "interval", "covers", "gap", "debiased ECE"]
    return table(heads, rows)


def tell(lines: Sequence[Line]) -> int:
    """Print everything and return the exit status: 0 where every claim holds."""
    outcomes = Outcomes(lines)
    print(f"{len(lines)} cells\n\n{sides_table(outcomes)}")
    if any(line.side == "ours" for line in lines):
        print(f"\n{honesty_table(outcomes)}")
    print()
    verdicts = judge(outcomes)
    for verdict in verdicts:
        said = "MISSING" if verdict.held is None else "PASS" if verdict.held else "FAIL"
        print(f"{said}: {verdict.claim}\n    {verdict.found}")
    return PASS if all(verdict.held for verdict in verdicts) else FAIL
