"""Decides what a file becomes under a lazy edit, or that it cannot be known.

The answer is made of the file's own bytes and of the edit's lines, indented as the file's lines around them are. It is
given only where no other explanation of the edit that is about as good leads to another text.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from reflexd.engine.apply import snippet as snippets
from reflexd.engine.apply.alignment import Alignment, Original, Piece, read_original
from reflexd.engine.apply.checks import check
from reflexd.engine.apply.refusal import Refusal
from reflexd.engine.apply.snippet import Snippet
from reflexd.engine.apply.syntax import complaint

MARGIN = 0.6
"""An explanation that costs at most so much more than the best one is about as good."""
MOST_TRACED = 64
"""Other explanations that are looked at, the cheapest first."""
MOST_CELLS = 8_000_000
"""Lines of the file times lines of the edit: each takes 48 bytes."""
MOST_LOST = 0.5
BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"


class Merged(Struct, frozen=True, kw_only=True):
    """The new text; which of its lines, from 1, are new ([first, last], in their order); and how sure it is.

    `confidence` is 1 where no other explanation was near, and less the nearer one came that leads to the same text.
    """

    text: str
    changed: list[tuple[int, int]]
    confidence: float


class File(Struct, frozen=True):
    """A file as its lines with what ends each, and as they are compared."""

    raw: list[str]
    lines: Original
    ending: str


def merge(original: str, update: str) -> Merged:
    """Return the file after the edit; raises Refusal."""
    bom = BOM if original.startswith(BOM) else ""
    file = read(original[len(bom) :])
    edit = snippets.read(lines_of(update), file.lines.places.keys())
    if not edit.lines:
        raise Refusal("empty_update", "The update is empty")
    if all(edit.markers):
        raise Refusal("only_markers", "The update has only markers for code that is left out, and no code")
    whole = is_whole(file.lines, edit)
    if whole:
        text, changed = _rewritten(file, edit)
        confidence = 1.0
    else:
        if len(file.lines.lines) * len(edit.lines) > MOST_CELLS:
            raise Refusal("too_large", "The file and the update are too long together: send a shorter part of the file")
        alignment = Alignment(file.lines, edit)
        best = alignment.best()
        text, changed = _text(best, edit, file), _changed(best)
        if whole is None and _said(text) != _said(_rewritten(file, edit)[0]):
            raise Refusal("ambiguous", "The update may be the whole file or a part of it: mark what it leaves out")
        check(best, edit, file.lines)
        confidence = _lead(alignment, best, edit, file, text)
    merged = bom + _as_ended(text, original, file.ending)
    if (wrong := complaint(original, merged)) is not None:
        raise Refusal("invalid_result", f"With this update {wrong}")
    return Merged(text=merged, changed=changed, confidence=confidence)


def read(text: str) -> File:
    """Read a file: a line ends with a line feed, with or without a carriage return before it."""
    raw = text.split("\n")
    raw = [line + "\n" for line in raw[:-1]] + ([raw[-1]] if raw[-1] else [])
    windows = 2 * sum(line.endswith("\r\n") for line in raw) > len(raw)
    return File(raw, read_original([line.rstrip("\r\n") for line in raw]), "\r\n" if windows else "\n")


def lines_of(update: str) -> list[str]:
    """Return the lines of an edit without empty ones before and behind them."""
    lines = [line.rstrip("\r") for line in update.removeprefix(BOM).split("\n")]
    said = [number for number, line in enumerate(lines) if line.strip()]
    return lines[said[0] : said[-1] + 1] if said else []


def is_whole(file: Original, edit: Snippet) -> bool | None:
    """Whether an edit is the whole new file; None where it may be, or one block of the file.

    It has no marker, and it begins and ends as the file does, or has all of its lines.
    """
    if any(edit.markers):
        return False
    said = [text for text in file.stripped if len(text) > 4]
    own = {line.strip() for line in edit.lines}
    share = sum(text in own for text in said) / max(1, len(said))
    first, last = (next((text for text in each if text), "") for each in (file.stripped, reversed(file.stripped)))
    ends = (edit.lines[0].strip() == first) + (edit.lines[-1].strip() == last)
    sure, perhaps = ((0.95, 0.6), (0.9, 0.5), (0.35, 0.2))[ends]
    return True if share >= sure else None if share >= perhaps else False


def _rewritten(file: File, edit: Snippet) -> tuple[list[str], list[tuple[int, int]]]:
    """Return a file that is the edit, and its lines but for those that begin and end both; raises Refusal."""
    before, after = file.lines.lines, edit.lines
    if len(after) < MOST_LOST * len(before):
        raise Refusal("ambiguous", "The update would delete most of the file: mark what it leaves out")
    same = 0
    while same < min(len(before), len(after)) and before[same].rstrip() == after[same].rstrip():
        same += 1
    last = 0
    while last < min(len(before), len(after)) - same and before[-1 - last].rstrip() == after[-1 - last].rstrip():
        last += 1
    text = file.raw[:same] + [line + file.ending for line in after[same : len(after) - last]]
    changed = [(same + 1, len(after) - last)] if len(text) > same else []
    return text + file.raw[len(before) - last :], changed


def _lead(alignment: Alignment, best: Sequence[Piece], edit: Snippet, file: File, text: Sequence[str]) -> float:
    """Return how sure the best explanation is; raises Refusal where one that is about as good gives another text."""
    seen, nearest = {tuple(best)}, MARGIN
    boundaries = sorted(alignment.boundaries(MARGIN), key=lambda one: one.cost)
    for boundary in boundaries[:MOST_TRACED]:
        pieces = alignment.through(boundary)
        if tuple(pieces) in seen:
            continue
        seen.add(tuple(pieces))
        if _said(_text(pieces, edit, file)) != _said(text):
            places = [alignment.place_of(best, boundary), boundary.place]
            line = min(boundary.row, len(edit.lines) - 1)
            raise Refusal(
                "ambiguous", "The update fits the file in more than one way: show more around it", line, places
            )
        nearest = min(nearest, boundary.cost - alignment.cost)
    return round(0.5 + 0.5 * max(0.0, nearest) / MARGIN, 2)


def _said(text: Sequence[str]) -> list[str]:
    return [line.rstrip() for line in text if line.strip()]


def _text(pieces: Sequence[Piece], edit: Snippet, file: File) -> list[str]:
    """Return the lines of the answer."""
    shift = _shifts(pieces, edit, file.lines)
    out: list[str] = []
    for piece in pieces:
        if piece.line < 0:
            out += file.raw[piece.start : piece.end]
            continue
        line = edit.lines[piece.line]
        pad = shift[piece.line]
        if pad and line.strip():
            line = pad + line if not pad.startswith("-") else line[len(pad) - 1 :]
        if piece.start >= 0 and file.lines.stripped[piece.start] == line.strip():
            own = file.lines.lines[piece.start]
            if own.rstrip() == line.rstrip() or not line.strip():
                out.append(file.raw[piece.start])
                continue
        out.append(line + file.ending)
    return out


def _shifts(pieces: Sequence[Piece], edit: Snippet, file: Original) -> list[str]:
    """Return for each line of the edit what is put before it: the same for all lines between two markers.

    Where no line that stands in the file too is indented as it is there, the edit was written without that, and its
    first such line tells how far all are moved; those behind it may be indented anew. "-" and spaces: so many are taken
    off.
    """
    out = [""] * len(edit.lines)
    found = {piece.line: piece.start for piece in pieces if piece.line >= 0 and piece.start >= 0}
    start = 0
    for row in range(len(edit.lines) + 1):
        if row < len(edit.lines) and not edit.markers[row]:
            continue
        own = [line for line in range(start, row) if edit.lines[line].strip() and line in found]
        sure = min(1.0, max((float(file.weights[found[line]]) for line in own), default=0.0))
        pads = [
            _pad(file.lines[found[line]], edit.lines[line])
            for line in own
            if file.weights[found[line]] >= sure and file.stripped[found[line]] == edit.lines[line].strip()
        ]
        if pads and "" not in pads and None not in pads:
            out[start:row] = [pads[0] or ""] * (row - start)
        start = row + 1
    return out


def _pad(ours: str, theirs: str) -> str | None:
    """Return what must be put before their line, or "-" and what must go, to have ours; None if neither does."""
    mine, other = (line[: len(line) - len(line.lstrip())] for line in (ours, theirs))
    if mine.endswith(other):
        return mine[: len(mine) - len(other)]
    return "-" + other[: len(other) - len(mine)] if other.endswith(mine) else None


def _as_ended(text: list[str], original: str, ending: str) -> str:
    if text and original:
        if original.endswith("\n") and not text[-1].endswith("\n"):
            text[-1] += ending
        elif not original.endswith("\n"):
            text[-1] = text[-1].rstrip("\r\n")
    return "".join(text)


def _changed(pieces: Sequence[Piece]) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    at = 0
    for piece in pieces:
        size = piece.end - piece.start if piece.line < 0 else 1
        if piece.line >= 0 and piece.start < 0:
            if out and out[-1][1] == at:
                out[-1] = (out[-1][0], at + 1)
            else:
                out.append((at + 1, at + 1))
        at += size
    return out
