"""Decides whether the file that a model gave for an update is believed: nothing invented, leaked, forgotten or lost.

A merged file is made of the lines of two texts. What a model adds to them, or leaves out of the update, nobody asked
for. What it leaves out of the file must have been deleted or replaced within what the update shows, up to a half of it.
"""

from __future__ import annotations

from collections import Counter

from reflexd.engine.apply.changes import Kept, changed_lines, kept_lines
from reflexd.engine.apply.checks import FEW, MANY
from reflexd.engine.apply.merge import BOM
from reflexd.engine.apply.messages import Done
from reflexd.engine.apply.refusal import Refusal
from reflexd.engine.apply.snippet import is_marker
from reflexd.engine.apply.syntax import Judge

MOST_LOST = 0.5
REASON = "invalid_output"


def verify(original: str, update: str, output: str) -> Done:
    """Return the model's file with the bytes of the lines that it kept; raises Refusal."""
    bom = BOM if original.startswith(BOM) else ""
    before = _lines(original.removeprefix(BOM))
    said = [line.rstrip("\r\n") for line in _lines(output.removeprefix(BOM))]
    bare = [line.rstrip("\r\n") for line in before]
    _compare(bare, update.removeprefix(BOM).split("\n"), said)
    windows = 2 * sum(line.endswith("\r\n") for line in before) > len(before)
    after = [line + ("\r\n" if windows else "\n") for line in said]
    kept = kept_lines(bare, said)
    _bound(bare, said, update.removeprefix(BOM).split("\n"), kept)
    for start, other, size in kept:
        after[other : other + size] = before[start : start + size]
    # The line that ended the file without a line break may stand elsewhere now.
    after = [line if line.endswith("\n") else line + ("\r\n" if windows else "\n") for line in after]
    if not original.endswith("\n"):
        after[-1] = after[-1].rstrip("\r\n")
    text = bom + "".join(after)
    if (wrong := Judge(original).complaint(text)) is not None:
        raise Refusal(REASON, f"With the model's answer {wrong[1]}")
    return Done(text=text, changed=changed_lines(before, _lines(text.removeprefix(BOM))))


def _compare(original: list[str], update: list[str], output: list[str]) -> None:
    """Raise Refusal where the output does not say what the other two say together."""
    own, asked = ({line.strip() for line in lines} - {""} for lines in (original, update))
    markers = {line for line in asked if is_marker(line) and line not in own}
    given = {line.strip() for line in output} - {""}
    if not given:
        raise Refusal(REASON, "The model answered with nothing")
    if given & markers or any(is_marker(line) for line in given - own):
        raise Refusal(REASON, "The model left a marker for existing code in the file")
    if given - own - asked:
        raise Refusal(REASON, "The model wrote lines that stand neither in the file nor in the update")
    if asked - markers - given:
        raise Refusal(REASON, "The model left out lines of the update")
    before = Counter(line.strip() for line in original if line.strip())
    lost = before - Counter(line.strip() for line in output)
    if lost.total() > MOST_LOST * before.total():
        raise Refusal(REASON, "The model left out most of the file")


def _bound(original: list[str], output: list[str], update: list[str], kept: list[Kept]) -> None:
    """Raise Refusal where lines are gone for which no others came, and the update does not show both sides of them.

    Of many lines the sides must stand in the file once only, as for the engine (checks.py).
    """
    bare = [line.strip() for line in original]
    count = Counter(bare)
    parts: list[set[str]] = [set()]
    for line in map(str.strip, update):
        if is_marker(line) and line not in count:
            parts.append(set())
        elif line:
            parts[-1].add(line)
    at = other = 0
    for start, new, size in [*kept, (len(original), len(output), 0)]:
        gone = sum(map(bool, bare[at:start]))
        if gone > sum(bool(line.strip()) for line in output[other:new]):
            before = next(filter(None, reversed(bare[:at])), "")
            after = next(filter(None, bare[start:]), "")
            known = (not before or count[before] == 1) + (not after or count[after] == 1)
            shown = any(
                part and (before in part or not (before or number)) and (after in part or not (after or rest))
                for number, part in enumerate(parts)
                for rest in [len(parts) - 1 - number]
            )
            if not shown or known < (gone >= FEW) + (gone >= MANY):
                raise Refusal(REASON, "The model left out lines of the file that the update does not delete")
        at, other = start + size, new + size


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    return [line + "\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
