"""Decides what is claimed of training, and judges it from the outcomes of cells: a missing cell never counts as met."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, median

import numpy as np
from msgspec import Struct

from benchmarks.training_cells import (
    ALL,
    MULTI_LABEL,
    ROWS,
    SEEDS,
    SETFIT_ROWS,
    SETFIT_SETS,
    SETS,
    SINGLE_LABEL,
    Cell,
    Line,
    cells,
    missing,
)
from benchmarks.training_scores import as_array, paired_bootstrap

COST_SHARE = 0.1
MARGIN = 0.003
OVER_TFIDF, OVER_TFIDF_MULTI = 0.10, 0.05
COVERED, GAP, ECE = 0.90, 0.02, 0.03
BANKING77 = 0.935
HONEST_ROWS = ("16", "64", ALL)
PEERS = ("tfidf", "frozen", "full")

Found = tuple[str, bool]
"""What was found, and whether the claim holds."""


class Verdict(Struct, frozen=True):
    """A claim and what was found; `held` is None where cells are missing, as `found` then says."""

    claim: str
    found: str
    held: bool | None


class Outcomes:
    """The outcomes of cells, by cell; of a cell that was measured twice, the last one."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._of = {line.cell: line for line in lines}

    def need(self, sides: Sequence[str], sets: Sequence[str], rows: Sequence[str]) -> list[Line]:
        """Return the lines of all such cells; raises MissingCells."""
        wanted = cells(sides, sets, rows, SEEDS)
        lacking = list(missing(wanted, self._of.values()))
        if lacking:
            raise MissingCells(lacking, len(wanted))
        return [self._of[cell] for cell in wanted]

    def seeds(self, side: str, name: str, rows: str) -> dict[int, Line]:
        """Return a side's lines for a set and rows, by seed."""
        found = {seed: self._of.get(Cell(side, name, rows, seed)) for seed in SEEDS}
        return {seed: line for seed, line in found.items() if line is not None}


class MissingCells(Exception):
    """Some cells of a claim were not measured."""

    def __init__(self, lacking: Sequence[Cell], of: int) -> None:
        first = ", ".join(f"{cell.side} {cell.set} {cell.rows} seed {cell.seed}" for cell in lacking[:3])
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        super().__init__(f"missing {len(lacking)} of {of} cells: {first}{more}")


def accuracy(lines: Iterable[Line]) -> float:
    """Return the mean over sets (and sizes) of the mean accuracy over seeds."""
    of: dict[tuple[str, str], list[float]] = {}
    for line in lines:
        of.setdefault((line.set, line.rows), []).append(line.accuracy)
    return fmean(fmean(each) for each in of.values())


def beside_setfit(outcomes: Outcomes) -> Found:
    """Ours against SetFit: at least its accuracy, at a share of its processor time."""
    ours, theirs = (outcomes.need([side], SETFIT_SETS, SETFIT_ROWS) for side in ("ours", "setfit"))
    differences = []
    for name in SETFIT_SETS:
        of_rows = []
        for rows in SETFIT_ROWS:
            a, b = outcomes.seeds("ours", name, rows), outcomes.seeds("setfit", name, rows)
            of_rows.append([as_array(a[seed].correct) - as_array(b[seed].correct) for seed in SEEDS])
        differences.append(np.mean(of_rows, axis=0))
    found = paired_bootstrap(differences)
    cost, theirs_cost = sum(line.core_seconds for line in ours), sum(line.core_seconds for line in theirs)
    return (
        f"{accuracy(ours):.4f} and {accuracy(theirs):.4f}: {found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f});"
        f" {cost:.0f} of {theirs_cost:.0f} core-s, {cost / theirs_cost:.3f}",
        found.mean >= 0 and cost <= COST_SHARE * theirs_cost,
    )


def beside_peers(outcomes: Outcomes, rows: str) -> Found:
    """Ours against the peer with the best mean over the single-label sets, on the seeds that the peer has too."""
    outcomes.need(["ours", *PEERS], SINGLE_LABEL, [rows])
    means: dict[str, float] = {}
    mine: dict[str, float] = {}
    best_each = []
    for name in SINGLE_LABEL:
        each = {peer: fmean(o.accuracy for o in outcomes.seeds(peer, name, rows).values()) for peer in PEERS}
        best_each.append(max(each.values()))
    for peer in PEERS:
        shared = [(name, seed) for name in SINGLE_LABEL for seed in outcomes.seeds(peer, name, rows)]
        means[peer] = accuracy(outcomes.seeds(peer, name, rows)[seed] for name, seed in shared)
        mine[peer] = accuracy(outcomes.seeds("ours", name, rows)[seed] for name, seed in shared)
    best = max(PEERS, key=lambda peer: means[peer])
    said = "; ".join(f"{peer} {means[peer]:.4f} (ours on its seeds {mine[peer]:.4f})" for peer in PEERS)
    return (
        f"best is {best}; {said}; the best one of each set {fmean(best_each):.4f}",
        mine[best] >= means[best] - MARGIN,
    )


def over_tfidf(outcomes: Outcomes) -> Found:
    """Ours over TF-IDF with few rows."""
    ours, theirs = (accuracy(outcomes.need([side], SINGLE_LABEL, ["8"])) for side in ("ours", "tfidf"))
    return (
        f"{ours:.4f} and {theirs:.4f}: {ours - theirs:+.4f}",
        ours - theirs >= OVER_TFIDF,
    )


def covers(line: Line) -> bool:
    """Whether the interval of the job's result holds the test accuracy; a result without one does not."""
    interval = (line.result or {}).get("interval")
    return interval is not None and interval[0] <= line.accuracy <= interval[1]


def gap(line: Line) -> float | None:
    """Return how much better the job's result says it is than the test rows do; None where it says nothing."""
    said = (line.result or {}).get("accuracy")
    return None if said is None else said - line.accuracy


def ece(line: Line) -> float:
    """Return the debiased calibration error of a line that has one."""
    assert line.ece is not None
    return line.ece


def interval_covers(outcomes: Outcomes) -> Found:
    """How often the job's interval holds the test accuracy, which is itself counted on finitely many rows."""
    lines = outcomes.need(["ours"], SETS, HONEST_ROWS)
    share = fmean(covers(line) for line in lines)
    return (
        f"{share:.1%} of {len(lines)}: {by_rows(lines, lambda each: f'{fmean(map(covers, each)):.1%}')}",
        share >= COVERED,
    )


def small_gap(outcomes: Outcomes) -> Found:
    """Whether the job's accuracy is, on average, neither too good nor too bad."""
    lines = outcomes.need(["ours"], SETS, HONEST_ROWS)
    mean = mean_gap(lines)
    return (
        f"{mean:+.4f}: {by_rows(lines, lambda each: f'{mean_gap(each):+.4f}')}",
        abs(mean) <= GAP,
    )


def mean_gap(lines: Iterable[Line]) -> float:
    """Return the mean gap of the lines that have one, NaN where none has."""
    gaps = [each for line in lines if (each := gap(line)) is not None]
    return fmean(gaps) if gaps else float("nan")


def calibrated(outcomes: Outcomes) -> Found:
    """Whether confidences mean what they say."""
    lines = outcomes.need(["ours"], SINGLE_LABEL, HONEST_ROWS)
    middle = median(map(ece, lines))
    return (
        f"{middle:.4f}: {by_rows(lines, lambda each: f'{median(map(ece, each)):.4f}')}",
        middle <= ECE,
    )


def by_rows(lines: Sequence[Line], summary: Callable[[Sequence[Line]], str]) -> str:
    """Return the summary of each number of rows."""
    found = {rows: [line for line in lines if line.rows == rows] for rows in ROWS}
    return ", ".join(f"{rows} rows {summary(each)}" for rows, each in found.items() if each)


def multi_label(outcomes: Outcomes) -> Found:
    """Ours over TF-IDF where a text has several labels."""
    sides = {side: outcomes.need([side], [MULTI_LABEL], ROWS) for side in ("ours", "tfidf")}
    of = {
        side: {rows: fmean(line.macro_f1 for line in lines if line.rows == rows) for rows in ROWS}
        for side, lines in sides.items()
    }
    ours, theirs = (fmean(of[side].values()) for side in ("ours", "tfidf"))
    each = ", ".join(f"{rows} rows {of['ours'][rows]:.4f} and {of['tfidf'][rows]:.4f}" for rows in ROWS)
    return (
        f"{ours:.4f} and {theirs:.4f}: {ours - theirs:+.4f}; {each}",
        ours - theirs >= OVER_TFIDF_MULTI,
    )


def banking77(outcomes: Outcomes) -> Found:
    """Ours on all rows of a set that is well known."""
    found = accuracy(outcomes.need(["ours"], ["banking77"], [ALL]))
    return f"{found:.4f}", found >= BANKING77


CLAIMS: dict[str, Callable[[Outcomes], Found]] = {
    f"ours at least SetFit's mean accuracy, in at most {COST_SHARE} of its core-s (6 sets, 8 and 16)": beside_setfit,
    f"ours at least the best other peer's mean - {MARGIN} (64 rows a label, 11 sets)": lambda o: beside_peers(o, "64"),
    f"ours at least the best other peer's mean - {MARGIN} (all rows, 11 sets)": lambda o: beside_peers(o, ALL),
    f"ours over TF-IDF by at least {OVER_TFIDF} (8 rows a label, 11 sets)": over_tfidf,
    f"result.interval covers the test accuracy in at least {COVERED:.0%} of runs (16 rows and more)": interval_covers,
    f"|mean of result.accuracy - test accuracy| at most {GAP} (16 rows and more)": small_gap,
    f"median debiased ECE at most {ECE} (16 rows and more, 11 sets)": calibrated,
    f"{MULTI_LABEL}: mean macro-F1 over TF-IDF by at least {OVER_TFIDF_MULTI}": multi_label,
    f"banking77, all rows: at least {BANKING77}": banking77,
}


def judge(outcomes: Outcomes) -> list[Verdict]:
    """Judge every claim."""
    verdicts = []
    for claim, check in CLAIMS.items():
        try:
            verdicts.append(Verdict(claim, *check(outcomes)))
        except MissingCells as error:
            verdicts.append(Verdict(claim, str(error), None))
    return verdicts
