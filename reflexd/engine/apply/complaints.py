"""Decides what is told of an answer that is not sound: what is wrong, and at which line of the edit and of the file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import takewhile

from reflexd.engine.apply.alignment import Piece
from reflexd.engine.apply.definitions import lost
from reflexd.engine.apply.imports import lost_import
from reflexd.engine.apply.original import Original, weight
from reflexd.engine.apply.pins import pins
from reflexd.engine.apply.refusal import Refusal
from reflexd.engine.apply.scopes import BESIDES, headers_of, strayed
from reflexd.engine.apply.snippet import Snippet, name_of, opens
from reflexd.engine.apply.structure import torn, unclosed, unplaced
from reflexd.engine.apply.syntax import Judge, brackets

BY = "With this update"
IGNORED = "The file has this line, and the update does not fit there: show more of what stands around it"
UNCLOSED = "The end of this block would be deleted: show it, or more of what stands around the change"
PACKAGE = re.compile(r"package [\w.]+;?$")
"""What files of Go, Java and their like say once."""
OTHER_PACKAGE = "The file is of another package than the update: is it for another file?"
MOST_REPEATED = 10
LOST_IMPORT = "With this update an import would be deleted that the file still uses: show it, or what takes its place"
MOVED = "This line would replace one of the same name in another block: show that block's first line"
STRAYED = "This line would be taken from the block that it is in: show that block's first line, or more around this one"


def complaint(judge: Judge, text: str, pieces: Sequence[Piece], edit: Snippet, file: Original) -> Refusal | None:
    """Return why an answer, `text`, that is made of such pieces is not sound; None where it is."""
    if (known := ignored(pieces, edit, file)) is not None:
        return Refusal("ambiguous", IGNORED, known[0], [known[1]])
    if (other := _of_other_package(pieces, edit, file)) is not None:
        return Refusal("foreign_update", OTHER_PACKAGE, *other)
    gone = lost(judge.definitions, pieces, edit, file)
    if gone is not None:
        told = f"{BY} {gone.name} would be deleted, and it is not clear that this is meant"
        return Refusal("lost_definition", told, _behind(gone.line, pieces, edit), [gone.line])
    if (place := lost_import(pieces, edit, file, text.split("\n"))) is not None:
        return Refusal("lost_definition", LOST_IMPORT, _behind(place, pieces, edit), [place])
    origins = list(_origins(pieces))
    lines = text.split("\n")[: len(origins)]
    unseen = [piece.line < 0 for piece in pieces for _ in range(max(1, piece.end - piece.start))]
    versions = [piece for piece in pieces if _is_key(piece, edit, file)]
    if versions and (moved := _moved(versions, pieces, edit, judge)) is not None:
        return Refusal("ambiguous", MOVED, moved.line, [moved.start])
    stray = strayed(lines, [place for _, place in origins], unseen, file, judge.above, flat=judge.flat)
    if stray is not None:
        row, place = origins[stray]
        return Refusal("ambiguous", STRAYED, max(row, 0), [place])
    if (tear := _torn(lines, origins, pieces, edit, file, judge)) is not None:
        return tear
    wrong = judge.complaint(text)
    if wrong is None:
        return None
    found = [origins[line] for line in wrong.lines if line < len(origins)]
    own = [row for row, place in found if place < 0] or [row for row, _ in found if row >= 0]
    places = [place for _, place in found if place >= 0]
    if not own:
        own, places = _unbalanced(pieces, edit, file)
    return Refusal(wrong.reason, f"{BY} {wrong.what}", own[0] if own else None, places)


def _behind(place: int, pieces: Sequence[Piece], edit: Snippet) -> int:
    """Return the edit's first line that is one of the file's behind a place; its last where none is."""
    return next((piece.line for piece in pieces if piece.line >= 0 and piece.start > place), len(edit.lines) - 1)


def _of_other_package(pieces: Sequence[Piece], edit: Snippet, file: Original) -> tuple[int, list[int]] | None:
    """Return a new line of the edit that says of what package the file is, where the file's own stays; and that.

    It is the first that is no comment: behind others it is in a text, or begins another package of the same file.
    """
    said = map(str.strip, edit.lines)
    first = next((row for row, text in enumerate(said) if text and not BESIDES.match(text)), 0)
    new = [one.line for one in pieces if one.start < 0 and one.line == first and PACKAGE.match(edit.lines[first])]
    own = [at for one in pieces for at in range(one.start, one.end) if PACKAGE.match(file.stripped[at])]
    return (new[0], own[:1]) if new and own else None


def _torn(
    lines: Sequence[str],
    origins: Sequence[tuple[int, int]],
    pieces: Sequence[Piece],
    edit: Snippet,
    file: Original,
    judge: Judge,
) -> Refusal | None:
    """Return a Refusal where an answer tears blocks apart (structure.py)."""
    if (number := torn(lines, origins, file, judge.above, judge.flat)) is not None:
        return Refusal("ambiguous", STRAYED, max(origins[number][0], 0), [origins[number][1]])
    if (number := unclosed(lines, origins, file)) is not None:
        return Refusal("unbounded_deletion", UNCLOSED, max(origins[number][0], 0), [origins[number][1]])
    if (row := unplaced(pieces, edit, file)) is not None:
        return Refusal("ambiguous", IGNORED, row, file.places[edit.lines[row].strip()])
    return None


def ignored(pieces: Sequence[Piece], edit: Snippet, file: Original) -> tuple[int, int] | None:
    """Return a line of the edit that is taken for new though it stands in the file, and where.

    That is one that tells where the edit belongs (pins.py), or one of some that are beside others that say the same.
    """
    places = {piece.line: piece.start for piece in pieces if piece.line >= 0}
    for row, place in pins(edit, file).items():
        if places.get(row, -1) != place:
            return row, place
    return _repeated(pieces, edit, file)


def _repeated(pieces: Sequence[Piece], edit: Snippet, file: Original) -> tuple[int, int] | None:
    """Return a new line and one beside it that is kept, where each is of some that say the same: they would be doubled.

    That the edit shows what is at a marker's end, and shows it there; or a block begins, or ends, as the one beside it
    and with lines that the file has once: it is that one changed.
    """
    for number, piece in enumerate(pieces):
        if piece.line >= 0:
            continue
        kept = list(filter(None, file.stripped[piece.start : piece.end]))
        for step, beside in ((1, pieces[number + 1 :]), (-1, pieces[:number][::-1])):
            rows = [one.line for one in takewhile(lambda one: one.line >= 0 and one.start < 0, beside)]
            new = list(filter(None, (edit.lines[row].strip() for row in rows)))
            most = min(len(new), len(kept), MOST_REPEATED)
            shown = any(
                new[:size] == (kept[-size:] if step > 0 else kept[:size][::-1]) and max(map(weight, new[:size])) == 1
                for size in range(1, most + 1)
            )
            same = takewhile(lambda two: two[0] == two[1], zip(new[::-1], kept[::-step], strict=False))
            once = [len(file.places[one]) == 1 for one, _ in same]
            if shown or (all(once) and (len(once) > 1 or (once and opens(new[-1])))):
                return rows[0], piece.end - 1 if step > 0 else piece.start
    return None


def _unbalanced(pieces: Sequence[Piece], edit: Snippet, file: Original) -> tuple[list[int], list[int]]:
    """Return the edit's line that begins the first change that opens or closes more than it replaces, and where."""
    at, new = 0, list[int]()
    for piece in [*pieces, Piece(len(file.lines), len(file.lines))]:
        if piece.start < 0:
            new.append(piece.line)
            continue
        changed = piece.line >= 0 and file.stripped[piece.start] != edit.lines[piece.line].strip()
        come = [edit.lines[row] for row in new] + ([edit.lines[piece.line]] if changed else [])
        gone = file.lines[at : piece.end if changed else piece.start]
        if brackets("\n".join(come)) != brackets("\n".join(gone)):
            rows = [*new, *([piece.line] if piece.line >= 0 else [])]
            return rows[:1] or [max((one.line for one in pieces if 0 <= one.start < at), default=0)], [at]
        at, new = piece.end, []
    return [], []


def _is_key(piece: Piece, edit: Snippet, file: Original) -> bool:
    if piece.line < 0 or piece.start < 0 or file.stripped[piece.start] == edit.lines[piece.line].strip():
        return False
    return name_of(edit.lines[piece.line]).startswith("= ")


def _moved(versions: Sequence[Piece], pieces: Sequence[Piece], edit: Snippet, judge: Judge) -> Piece | None:
    """Return a line that stands for one of the same name in another block than the edit shows it in."""
    places = {piece.line: piece.start for piece in pieces if piece.line >= 0 and piece.start >= 0}
    headers = headers_of(edit, judge.flat)
    for piece in versions:
        header = places.get(headers[piece.line])
        if header is not None and header != judge.above[piece.start]:
            return piece
    return None


def _origins(pieces: Sequence[Piece]) -> Iterator[tuple[int, int]]:
    """Yield for each line of an answer the edit's line that it is or that comes before it, and the file's; or -1."""
    row = -1
    for piece in pieces:
        row = max(row, piece.line)
        for place in range(piece.start, piece.end) if piece.start >= 0 else (-1,):
            yield row, place
