"""Decides what a file becomes under a lazy edit, or that it cannot be known.

The answer is made of the file's own bytes and of the edit's lines, indented as the file's lines around them are. It is
given only where no other explanation of the edit that is about as good leads to another text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct

from reflexd.engine.apply import snippet as snippets
from reflexd.engine.apply.alignment import Piece
from reflexd.engine.apply.changes import changed_lines, kept_lines
from reflexd.engine.apply.checks import AT_END, EMPTY_MARKER, check, check_anchors
from reflexd.engine.apply.choice import Choice
from reflexd.engine.apply.complaints import BY
from reflexd.engine.apply.edges import check_edges
from reflexd.engine.apply.indentation import placed, restyled
from reflexd.engine.apply.leaks import check_leaks
from reflexd.engine.apply.original import Original
from reflexd.engine.apply.refusal import Refusal
from reflexd.engine.apply.rendering import BOM, File, as_ended, lines_of, read, said, set_apart, text_of
from reflexd.engine.apply.siblings import check_siblings, check_statements
from reflexd.engine.apply.snippet import Snippet
from reflexd.engine.apply.syntax import Judge

MOST_CELLS = 8_000_000
"""Lines of the file times lines of the edit: each takes 48 bytes."""
WORD = re.compile(r"\w{2,}")
MOST_LOST = 0.5
"""Of a file, that an edit which is all of it may be shorter by."""
ALIKE, ABOUT_AS_LONG = 0.75, 0.2
"""Of a file's lines, so many are in an edit that is all of it, where it is longer or shorter by at most so much."""


class Merged(Struct, frozen=True, kw_only=True):
    """The new text; which of its lines, from 1, are new ([first, last], in their order); and how sure it is.

    `confidence` is 1 where no other explanation was near, and less the nearer one came that leads to the same text.
    """

    text: str
    changed: list[tuple[int, int]]
    confidence: float


UNCHANGED = "The update changes nothing: it has been applied, or show the lines on both sides of what is to go"
Reading = tuple[str, float]
"""A new file, and how sure it is."""


def merge(original: str, update: str) -> Merged:
    """Return the file after the edit; raises Refusal."""
    bom = BOM if original.startswith(BOM) else ""
    file = read(original[len(bom) :])
    lines = placed(restyled(lines_of(update), file.lines), file.lines)
    try:
        merged = _merged(file, lines)
    except Refusal as told:
        if told.line is not None:
            told.line += next(row for row, line in enumerate(update.removeprefix(BOM).split("\n")) if line.strip())
        raise
    text = bom + merged[0]
    if text == original and update.strip() != original.removeprefix(BOM).strip():
        raise Refusal("ambiguous", UNCHANGED, 0)
    check_leaks(original, update, text)
    return Merged(text=text, changed=changed_lines(original.split("\n"), text.split("\n")), confidence=merged[1])


def _merged(file: File, lines: Sequence[str]) -> Reading:
    """Try both readings of comments that may be markers; raises Refusal, too where both lead to an answer."""
    known = file.lines.places.keys()
    edit = snippets.read(lines, known)
    doubtful = [
        edit.rows[row] for row, marker in enumerate(edit.markers) if marker and snippets.is_doubtful(edit.lines[row])
    ]
    if not doubtful:
        return _answered(file, edit)
    try:
        left_out = _answered(file, edit)
    except Refusal as told:
        if told.reason == "only_markers" or (told.reason == EMPTY_MARKER and told.line in doubtful):
            return _answered(file, snippets.read(lines, known, doubtful=False))
        raise
    try:
        _answered(file, snippets.read(lines, known, doubtful=False))
    except Refusal:
        return left_out
    message = (
        "This comment may stand for code that is left out, or be a new one: begin a marker with dots, or reword it"
    )
    raise Refusal("ambiguous", message, doubtful[0])


def _answered(file: File, edit: Snippet) -> Reading:
    """Return the file under one reading of the edit; a Refusal tells the line among those of the edit as it came."""
    try:
        return _explained(file, edit)
    except Refusal as told:
        told.line = None if told.line is None else edit.rows[told.line]
        raise


def _explained(file: File, edit: Snippet) -> Reading:
    if not edit.lines:
        raise Refusal("empty_update", "The update is empty")
    if all(edit.markers):
        raise Refusal("only_markers", "The update has only markers for code that is left out, and no code")
    judge = Judge(file.text)
    whole = is_whole(file.lines, edit)
    if whole:
        lines = _rewritten(file, edit)
        text = as_ended(lines, file)
        _check_rewritten(file, lines, len(edit.lines))
        if (told := judge.complaint(text, whole=True)) is not None:
            row = min(max(told.lines[0] - _empty_before(file), 0), len(edit.lines) - 1) if told.lines else None
            raise Refusal(told.reason, f"{BY} {told.what}", row)
        return text, 1.0
    if len(file.lines.lines) * len(edit.lines) > MOST_CELLS:
        raise Refusal("too_large", "The file and the update are too long together: send a shorter part of the file")
    pieces, confidence = Choice(file, edit, judge).best()
    lines = text_of(pieces, edit, file)
    if whole is None and _may_be_whole(file, edit, pieces, lines):
        raise Refusal("ambiguous", "The update may be the whole file or a part of it: mark what it leaves out")
    check_anchors(pieces, edit, file.lines)
    check(pieces, edit, file.lines)
    check_siblings(pieces, edit, file.lines, judge.above, flat=judge.flat)
    check_statements(pieces, edit, file.lines)
    check_edges(pieces, edit, file.lines)
    return as_ended(set_apart(pieces, lines, edit, file, judge.flat), file), confidence


def _may_be_whole(file: File, edit: Snippet, pieces: Sequence[Piece], lines: Sequence[str]) -> bool:
    """Whether an edit that leads to `lines` as a part of a file leads to others as the whole of it, and may be that.

    One that has not the file's first or last lines, and nothing for them, is a part, if as such it changes anything,
    and takes no word away that those lines use.
    """
    try:
        whole = _rewritten(file, edit)
        _check_rewritten(file, whole, len(edit.lines))
    except Refusal:
        before, after = Counter(said(file.lines.lines)), Counter(said(lines))
        unseen = [
            file.lines.stripped[n] for one in (pieces[0], pieces[-1]) if one.line < 0 for n in range(one.start, one.end)
        ]
        return before == after or bool((_words(before - after) - _words(after - before)) & _words(unseen))
    return said(lines) != said(whole)


def _words(lines: Iterable[str]) -> set[str]:
    return {word for line in lines for word in WORD.findall(line)}


def _check_rewritten(file: File, lines: Sequence[str], edited: int) -> None:
    """Raise Refusal where a whole file has lost its first or last lines for nothing: it may have been cut short."""
    spoken = [place for place, line in enumerate(file.lines.stripped) if line]
    before, after = [file.lines.stripped[place] for place in spoken], list(filter(None, map(str.strip, lines)))
    kept = kept_lines(before, after) or [(0, 0, 0)]
    (start, first, _), (last, end, size) = kept[0], kept[-1]
    left = len(before) - last - size
    for gone, come, row, place in ((start, first, 0, 0), (left, len(after) - end - size, edited - 1, last + size)):
        if gone and not come:
            raise Refusal("ambiguous", AT_END, row, [spoken[place]])


def _empty_before(file: File) -> int:
    return next((place for place, line in enumerate(file.lines.stripped) if line), 0)


def is_whole(file: Original, edit: Snippet) -> bool | None:
    """Whether an edit is the whole new file; None where it may be, or one block of the file.

    It has no marker, and it begins and ends as the file does, or has all of its lines.
    """
    if not any(file.stripped):
        return not any(edit.markers)
    if any(edit.markers):
        return False
    said = [text for text in file.stripped if len(text) > 4]
    own = {line.strip() for line in edit.lines}
    share = sum(text in own for text in said) / max(1, len(said))
    first, last = (next((text for text in each if text), "") for each in (file.stripped, reversed(file.stripped)))
    # A file that ends in a bracket ends as many a part of it.
    ends = (edit.lines[0].strip() == first) + (edit.lines[-1].strip() == last and len(file.places[last]) == 1)
    sure, perhaps = ((0.95, 0.6), (0.9, 0.5), (0.35, 0.2))[ends]
    if (
        edit.lines[0].strip() == first
        and share >= ALIKE
        and abs(len(edit.lines) - len(file.lines)) <= ABOUT_AS_LONG * len(file.lines)
    ):
        return True
    return True if share >= sure else None if share >= perhaps else False


def _rewritten(file: File, edit: Snippet) -> list[str]:
    """Return the lines of a file that is the edit, with the bytes of those that begin and end both; raises Refusal."""
    # Empty lines at both ends stay, as they stay under any edit.
    spoken = [place for place, line in enumerate(file.lines.stripped) if line]
    begin, end = (spoken[0], spoken[-1] + 1) if spoken else (0, 0)
    before, after = file.lines.lines[begin:end], edit.lines
    if len(after) < MOST_LOST * len(before):
        raise Refusal("ambiguous", "The update would delete most of the file: mark what it leaves out")
    same = 0
    while same < min(len(before), len(after)) and before[same].rstrip() == after[same].rstrip():
        same += 1
    last = 0
    while last < min(len(before), len(after)) - same and before[-1 - last].rstrip() == after[-1 - last].rstrip():
        last += 1
    new = [line + file.ending for line in after[same : len(after) - last]]
    return file.raw[: begin + same] + new + file.raw[end - last :]
