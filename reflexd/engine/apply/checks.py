"""Decides when the best explanation of an edit is still not believed.

People and models leave things out of an edit that they did not mean to delete. Each check names what a reader of the
edit could not know for sure; its bounds were set on the histories of ten repositories, and held on nine others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from itertools import takewhile

from reflexd.engine.apply.alignment import Piece
from reflexd.engine.apply.deletions import deletions, stand_alone, stands_within
from reflexd.engine.apply.original import WORD, Original, weight
from reflexd.engine.apply.refusal import Refusal
from reflexd.engine.apply.scopes import CLOSES
from reflexd.engine.apply.snippet import VALUES, Snippet, defines, indent, name_of, opens

FEW, MANY = 3, 8
"""Deleted lines from which on one of the sides must stand in the file once only, and from which on both."""
FEW_AT_ENDS = 1
LEAST_ANCHOR = 0.75
"""What the known lines of each part of an edit must say together: a bracket is enough."""
LEAST_WORD = 0.85
"""What the line must say that says most of all that are known: more than a bracket."""
LEAST_KNOWN, LEAST_SHARE = 3, 0.45
NEAR = 4
"""Lines on both sides of a boundary that are compared with each other."""
IMPORT = re.compile(r"(?:import|from|use|using|#\s*include|require|extern crate)\b\s*")
FEW_CHARACTERS = 4
SHORT, ALIKE, VERSION_ALIKE = 8, 0.75, 0.6
MOST_GONE = 40
MOST_COMPARED = 300
"""Characters of a line."""
EMPTY_MARKER = "empty_marker"
AT_BLOCK = "The file has more of this block: end the update with a marker to keep it, or with the line behind the block"
AT_END = "The update may leave out the file's first or last lines or delete them: put a marker there to keep them"
BESIDE = "Lines beside this marker would be deleted, and it is not clear which: show what stands around them"
WITHIN = "Lines would be deleted up to one that stands among them, too: show more of what stands around them"
VERSION = "This line may be new, or stand for one like it that the update leaves out: show that one's surroundings"


def check_anchors(pieces: Sequence[Piece], edit: Snippet, file: Original) -> None:
    """Raise Refusal where a part of the edit between markers has hardly a line that stands in the file."""
    places = {piece.line: piece.start for piece in pieces if piece.line >= 0 and piece.start >= 0}
    found = {line: float(file.weights[start]) for line, start in places.items()}
    exact = {line for line, start in places.items() if file.stripped[start] == edit.lines[line].strip()}
    # A key or a variable may stand in any file, with another value.
    keys = {line for line in found if line not in exact and name_of(edit.lines[line]).startswith(VALUES)}
    anchors = {line: said / 2 if line in keys else said for line, said in found.items()}
    start = 0
    for row in range(len(edit.lines) + 1):
        if row < len(edit.lines) and not edit.markers[row]:
            continue
        if row > start and sum(anchors.get(line, 0.0) for line in range(start, row)) < LEAST_ANCHOR:
            raise Refusal("no_anchor", "These lines stand beside no line of the file: add some of its lines", start)
        start = row + 1
    known = sum(found[line] == 1 for line in found if line not in keys)
    known += sum(1 for _ in _versions(pieces, edit, file))
    own = sum(weight(line.strip()) == 1 for row, line in enumerate(edit.lines) if not edit.markers[row])
    gone = sum(said(file.stripped[start:end]) for start, end, _ in deletions(pieces))
    wordless = known == 0 and max(anchors.values(), default=0) < LEAST_WORD
    if wordless or (gone >= FEW and known < LEAST_KNOWN and known < LEAST_SHARE * own):
        raise Refusal("foreign_update", "Hardly a line of the update stands in the file: is it for another one?")


def check(pieces: Sequence[Piece], edit: Snippet, file: Original) -> None:
    """Raise Refusal where any other check fails."""
    _markers(pieces, edit, file)
    _ends(pieces, edit, file)
    check_versions(pieces, edit, file)
    check_deletions(pieces, edit, file)


def check_deletions(pieces: Sequence[Piece], edit: Snippet, file: Original) -> None:
    """Raise Refusal where it is not clear that what is deleted is meant to be, no more of it and no less."""
    _tail(pieces, edit, file)
    _cut_ends(pieces, edit, file)
    _beside_markers(pieces, edit, file)
    _deletions(pieces, edit, file)


def said(lines: Sequence[str]) -> int:
    """Return how many lines are not empty."""
    return sum(map(bool, lines))


def _markers(pieces: Sequence[Piece], edit: Snippet, file: Original) -> None:
    """Each marker must stand for something."""
    row = -1
    kept: dict[int, bool] = {}
    for piece in pieces:
        if piece.line >= 0:
            row = piece.line
        elif any(file.stripped[piece.start : piece.end]):
            kept[row + 1] = True
    for place, marker in enumerate(edit.markers):
        if marker and not kept.get(place):
            raise Refusal(EMPTY_MARKER, "This marker stands for no line of the file", place)


def _ends(pieces: Sequence[Piece], edit: Snippet, file: Original) -> None:
    """Where no marker stands for what comes before or behind the edit, that must be more than a few lines.

    Of a few, nobody knows whether they are left out or meant to go, unless as little tells of many at the other end.
    """
    ends = ((pieces[0], 0), (pieces[-1], len(edit.lines) - 1))
    left_out = [
        0 if edit.markers[row] or piece.line >= 0 else said(file.stripped[piece.start : piece.end])
        for piece, row in ends
    ]
    places = {piece.line: piece.start for piece in pieces}
    for (piece, row), lines in zip(ends, left_out, strict=True):
        text = next(filter(None, file.stripped[piece.start : piece.end])) if lines else ""
        closes = row > 0 and (CLOSES.match(text) or CLOSES.match(edit.lines[row].strip()))
        begins = row == 0 and places.get(row, -1) >= 0
        if 0 < lines <= FEW_AT_ENDS and (max(left_out) <= FEW_AT_ENDS or not (closes or begins)):
            raise Refusal("ambiguous", AT_END, row, [piece.start])


def _cut_ends(pieces: Sequence[Piece], edit: Snippet, file: Original) -> None:
    """The file's first and last lines are deleted only where the edit reaches to them and replaces what it deletes."""
    for lines, row, step in ((pieces, 0, 1), (list(reversed(pieces)), len(edit.lines) - 1, -1)):
        first = next((one for one in lines if one.start >= 0 and any(file.stripped[one.start : one.end])), None)
        if first is None:
            continue
        gone = file.lines[: first.start] if step > 0 else file.lines[first.end :]
        if not any(map(str.strip, gone)):
            continue
        if edit.markers[row] or first.line < 0:
            raise Refusal("unbounded_deletion", BESIDE, row, [first.start])
        come = [edit.lines[piece.line].strip() for piece in lines[: lines.index(first)]]
        new = said(come)
        if file.stripped[first.start] != edit.lines[max(first.line, 0)].strip():
            come.append(edit.lines[max(first.line, 0)].strip())
        if step > 0 and (
            said(list(map(str.strip, gone))) > len(come)
            or not all(any(_replaces(text, line.strip()) for text in come) for line in gone if line.strip())
        ):
            raise Refusal("ambiguous", AT_END, row, [0])
        again = file.stripped[first.start] and file.lines[first.start] in gone
        if again or said(list(map(str.strip, gone))) > 3 * new or (step < 0 and _leaves(gone, new, edit.indents[row])):
            raise Refusal("ambiguous", AT_END, row, [first.start])


def _replaces(text: str, gone: str) -> bool:
    if (one := IMPORT.match(text)) and (other := IMPORT.match(gone)):
        text, gone = text[one.end() :], gone[other.end() :]
    return bool(text) and (alike(text, gone, VERSION_ALIKE) or (name_of(text) == name_of(gone) != ""))


def _leaves(gone: Sequence[str], new: int, level: int) -> bool:
    """Whether the file's last lines are more than what an edit at its end replaces: the block goes on to the end."""
    spoken = list(takewhile(str.strip, gone))
    others = any(map(str.strip, gone[len(spoken) :]))
    return others or len(spoken) > new + 1 or any(indent(line) < level for line in spoken)


def _tail(pieces: Sequence[Piece], edit: Snippet, file: Original) -> None:
    """An edit that ends in new lines of a block, with no marker, may be all of that block: then no more is kept."""
    kept = pieces[-1]
    if edit.markers[-1] or kept.line >= 0:
        return
    new = list(takewhile(lambda piece: piece.line >= 0 and piece.start < 0, reversed(pieces[:-1])))
    if len(new) == len(pieces) - 1 or not any(edit.lines[piece.line].strip() for piece in new):
        return
    header = pieces[-2 - len(new)]
    if header.line < 0 or not opens(file.lines[header.start]):
        return
    if file.next_indent[kept.start] > file.indents[header.start]:
        raise Refusal("ambiguous", AT_BLOCK, len(edit.lines) - 1, [kept.start])


def _beside_markers(pieces: Sequence[Piece], edit: Snippet, file: Original) -> None:
    """What is deleted beside a marker must be clear without the marker, which does not tell where it ends.

    That it is only where lines are replaced before a marker that is set apart from them, and indented as they are.
    """
    at, line, new, marked = 0, -1, False, True
    for piece in pieces:
        if piece.start < 0:
            new |= bool(edit.lines[piece.line].strip())
            line = piece.line
            continue
        row = line + 1
        if piece.line < 0:
            clear = new and not marked and row < len(edit.lines) and edit.apart[row]
            clear = clear and edit.level(row) == edit.indents[row]
        else:
            clear = not marked
        if at and not clear and any(file.stripped[at : piece.start]):
            raise Refusal("unbounded_deletion", BESIDE, max(row, piece.line), [at, piece.start])
        at, new, marked, line = piece.end, False, piece.line < 0, max(line, piece.line)
        if marked and row < len(edit.lines) and edit.markers[row]:
            line = row


def check_versions(pieces: Sequence[Piece], edit: Snippet, file: Original) -> None:
    """A new line beside lines that are kept must not be another version of one of these."""
    new = {piece.line for piece in pieces if piece.line >= 0 and piece.start < 0}
    for number, piece in enumerate(pieces):
        if piece.line >= 0:
            continue
        kept = file.stripped[piece.start : piece.end]
        for beside, others in (
            (pieces[max(0, number - NEAR) : number][::-1], _near(kept[:NEAR])),
            (pieces[number + 1 : number + 1 + NEAR], _near(kept[-NEAR:][::-1])),
        ):
            for line, text in _new(beside, edit):
                if edit.header(line) not in new and any(other != text and _is_version(text, other) for other in others):
                    raise Refusal("ambiguous", VERSION, line)


def _near(lines: Sequence[str]) -> list[str]:
    """Return the lines up to the first that begins a definition: what is behind it belongs to that."""
    first = next((row for row, line in enumerate(lines) if defines(line)), NEAR)
    return list(lines[: first + 1])


def _new(pieces: Sequence[Piece], edit: Snippet) -> Iterator[tuple[int, str]]:
    """Yield the new lines that say something, up to the first that the file has."""
    for piece in pieces:
        text = edit.lines[piece.line].strip() if piece.line >= 0 else ""
        if piece.line < 0 or (piece.start >= 0 and weight(text) >= WORD):
            return
        if piece.start < 0 and len(text) >= SHORT:
            yield piece.line, text


def _is_version(text: str, other: str) -> bool:
    """Whether one of two lines may be written for the other: they are alike, or one goes on where the other ends."""
    if (one := IMPORT.match(text)) and (two := IMPORT.match(other)):  # what is imported tells one from another
        text, other = text[one.end() :], other[two.end() :]
    if len(text) >= SHORT <= len(other) and alike(text, other):
        return True
    short, long = sorted((text, other), key=len)
    return long.startswith(short) and sum(map(str.isalnum, short)) >= FEW_CHARACTERS


def alike(one: str, other: str, least: float = ALIKE) -> bool:
    """Whether at least such a share of two lines is alike."""
    match = SequenceMatcher(None, one[:MOST_COMPARED], other[:MOST_COMPARED], autojunk=False)
    return match.real_quick_ratio() >= least and match.quick_ratio() >= least and match.ratio() >= least


def _deletions(pieces: Sequence[Piece], edit: Snippet, file: Original) -> None:
    """Where lines are deleted, the lines on both sides of them must stand in the file once only."""
    matched = {piece.start for piece in pieces if piece.line >= 0 and piece.start >= 0}
    for start, end, line in deletions(pieces):
        gone = said(file.stripped[start:end])
        if gone and (stands_within(matched, start, end, -1, file) or stands_within(matched, start, end, 1, file)):
            raise Refusal("ambiguous", WITHIN, min(line, len(edit.lines) - 1), [start, end])
        if gone < FEW:
            continue
        sides = stand_alone(matched, start, -1, file) + stand_alone(matched, end, 1, file)
        if sides < (1 if gone < MANY else 2):
            message = f"{gone} lines would be deleted, and it is not clear which: show more of what stands around them"
            raise Refusal("unbounded_deletion", message, min(line, len(edit.lines) - 1), [start, end])


def with_versions(pieces: Sequence[Piece], edit: Snippet, file: Original) -> list[Piece]:
    """Return pieces in which new lines stand for deleted ones, where they come, that they are versions of."""
    out = list(pieces)
    at = first = 0
    for number, piece in enumerate([*pieces, Piece(len(file.lines), len(file.lines))]):
        if piece.start < 0:
            continue
        for place in range(first, number):
            text = edit.lines[out[place].line].strip()
            name = name_of(text)
            for gone in range(at, min(piece.start, at + MOST_GONE)):
                other = file.stripped[gone]
                if (name and name == name_of(other)) or (other and text and _is_version(text, other)):
                    out[place], at = Piece(gone, gone + 1, out[place].line), gone + 1
                    break
        at, first = piece.end, number + 1
    return out


def _versions(pieces: Sequence[Piece], edit: Snippet, file: Original) -> Iterator[int]:
    """Yield the new lines that are like one which is deleted where they come: they are its next version."""
    new: list[int] = []
    at = -1
    for piece in pieces:
        if piece.line >= 0 and piece.start < 0:
            new.append(piece.line)
            continue
        gone = [text for text in file.stripped[at : piece.start][:MOST_GONE] if len(text) >= SHORT] if at >= 0 else []
        for line in new:
            text = edit.lines[line].strip()
            if len(text) >= SHORT and any(alike(text, other, VERSION_ALIKE) for other in gone):
                yield line
        new, at = [], piece.end
