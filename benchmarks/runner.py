"""Measures sides against each other so that their ratio can be believed, or says that it cannot.

A round of the sides A and B is A B A' B, the next one A' B A B: a side always follows the same side, and a machine that
slows down steadily favours none. A' is the A/A control: the baseline measured as if it were another side. A run whose
control is further from 1 than the tolerance is void.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct

PASS, FAIL, VOID = 0, 1, 3
RESAMPLES = 10_000
CONTROL = " again"


class Side(Struct, frozen=True):
    """One way of doing a piece of work; `measure` does it once and returns what it cost, in the report's unit."""

    name: str
    measure: Callable[[], float]


class Options(Struct, frozen=True, kw_only=True):
    """How long is measured, and how far the control may be off."""

    rounds: int = 7
    warmups: int = 1
    tolerance: float = 0.05
    seed: int = 0


class Spread(Struct, frozen=True):
    """A side's measurements, in the order taken."""

    median: float
    p90: float
    values: list[float]


class Ratio(Struct, frozen=True):
    """The median of per-round ratios and its 95 % bootstrap interval."""

    median: float
    low: float
    high: float


class Report(Struct, kw_only=True):
    """One run; `void` says why it proves nothing (None: it stands)."""

    title: str
    unit: str
    when: str
    machine: str
    options: Options
    sides: dict[str, Spread]
    ratios: dict[str, Ratio]
    """Of every other side to the first one."""
    control: Ratio
    void: str | None
    notes: dict[str, Any] = {}


def order(names: Sequence[str], round_number: int) -> list[str]:
    """Return who is measured when in a round: A B A' B, and A' B A B in every second one."""
    baseline, *others = names
    pair = [baseline, baseline + CONTROL]
    first, second = pair if round_number % 2 == 0 else pair[::-1]
    return [first, *others, second, *others]


def compare(title: str, sides: Sequence[Side], options: Options, unit: str = "s") -> Report:
    """Measure all sides twice in each round; the first one is the baseline, and its two measurements are the control.

    A round's ratio is that of the sums over the round.
    """
    names = [side.name for side in sides]
    again = names[0] + CONTROL
    measure = {side.name: side.measure for side in sides} | {again: sides[0].measure}
    for _ in range(options.warmups):
        for side in sides:
            side.measure()
    taken: dict[str, list[float]] = {name: [] for name in measure}
    for number in range(options.rounds):
        for name in order(names, number):
            taken[name].append(measure[name]())
    control = ratio(taken[again], taken[names[0]], options.seed)
    taken[names[0]] = [value for pair in zip(taken[names[0]], taken.pop(again), strict=True) for value in pair]
    sums = {name: np.reshape(values, (options.rounds, 2)).sum(axis=1).tolist() for name, values in taken.items()}
    off = abs(control.median - 1)
    return Report(
        title=title,
        unit=unit,
        when=time.strftime("%Y-%m-%d %H:%M"),
        machine=describe_machine(),
        options=options,
        sides={name: spread(values) for name, values in taken.items()},
        ratios={name: ratio(sums[name], sums[names[0]], options.seed) for name in names[1:]},
        control=control,
        void=f"the A/A control is off by {off:.1%}, over {options.tolerance:.0%}" if off > options.tolerance else None,
    )


def spread(values: Sequence[float]) -> Spread:
    """Summarise measurements."""
    return Spread(float(np.median(values)), float(np.quantile(values, 0.9)), list(values))


def ratio(values: Sequence[float], baseline: Sequence[float], seed: int) -> Ratio:
    """Return the median of values[i] / baseline[i] with its interval; the same seed gives the same interval."""
    each = np.asarray(values, dtype=np.float64) / np.asarray(baseline, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(len(each), size=(RESAMPLES, len(each)))
    low, high = np.quantile(np.median(each[drawn], axis=1), (0.025, 0.975))
    return Ratio(float(np.median(each)), float(low), float(high))


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out rows under their heads: the first column to the left, the others to the right."""
    cells = [list(heads), *map(list, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines = (
        "  ".join(c.rjust(w) if n else c.ljust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def as_text(report: Report) -> str:
    """Lay out a report for a reader."""
    rows = []
    for name, side in report.sides.items():
        found = report.ratios.get(name)
        compared = ["", ""] if found is None else [f"{found.median:.2f}x", f"{found.low:.2f} to {found.high:.2f}"]
        rows.append([name, f"{side.median:.4g}", f"{side.p90:.4g}", *compared])
    control = report.control
    rows.append(["A/A control", "", "", f"{control.median:.2f}x", f"{control.low:.2f} to {control.high:.2f}"])
    heads = ["side", f"median {report.unit}", f"p90 {report.unit}", "ratio", "95 % interval"]
    lines = [f"{report.title}, {report.options.rounds} rounds, {report.machine}", table(heads, rows)]
    return "\n".join(lines + ([f"VOID: {report.void}"] if report.void else []))


def describe_machine() -> str:
    """Say what a figure depends on, and nothing that identifies a host."""
    return f"{os.cpu_count()} cores (load {os.getloadavg()[0]:.1f}), Python {platform.python_version()}"


def add_arguments(parser: argparse.ArgumentParser, rounds: int = 7) -> None:
    """Add the options that every comparing script takes."""
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds that are measured (default %(default)s)")
    parser.add_argument("--warmups", type=int, default=1, help="unmeasured rounds before them")
    parser.add_argument("--tolerance", type=float, default=0.05, help="how far from 1 the A/A control may be")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap")
    parser.add_argument("--json", type=Path, help="also write the report there")


def options_of(arguments: argparse.Namespace) -> Options:
    """Return what add_arguments added."""
    given = vars(arguments)
    return Options(**{name: given[name] for name in Options.__struct_fields__})


def finish(report: Report, passed: bool, to: Path | None = None) -> int:
    """Print a report, write its JSON, and return the exit status: 0 passed, 1 failed, 3 void."""
    print(as_text(report))
    for name, value in report.notes.items():
        print(f"{name}: {value}")
    if to is not None:
        to.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    if report.void:
        return VOID
    print("PASS" if passed else "FAIL")
    return PASS if passed else FAIL
