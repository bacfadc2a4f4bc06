"""Decides which lines of a new file are said to be changed: those that a comparison by lines finds no partner for."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

Kept = tuple[int, int, int]
"""From which line of the old file, from which of the new one, and how many lines are the same; all from 0."""


def kept_lines(before: Sequence[str], after: Sequence[str]) -> list[Kept]:
    """Return the runs of lines that both files have, in their order."""
    same = 0
    least = min(len(before), len(after))
    while same < least and before[same] == after[same]:
        same += 1
    last = 0
    while last < least - same and before[-1 - last] == after[-1 - last]:
        last += 1
    # What begins and ends alike is most of a file, and is compared in no time; lines that come often are no anchors.
    middle = SequenceMatcher(None, before[same : len(before) - last], after[same : len(after) - last])
    runs = [(same + one.a, same + one.b, one.size) for one in middle.get_matching_blocks()]
    runs = [(0, 0, same), *runs, (len(before) - last, len(after) - last, last)]
    return [run for run in runs if run[2]]


def changed_lines(before: Sequence[str], after: Sequence[str]) -> list[tuple[int, int]]:
    """Return the changed lines of the new file as [first, last], from 1."""
    out: list[tuple[int, int]] = []
    at = 0
    for _, start, size in [*kept_lines(before, after), (0, len(after), 0)]:
        if start > at:
            out.append((at + 1, start))
        at = start + size
    return out
