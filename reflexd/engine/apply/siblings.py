"""Decides whether a block that takes the place of another one may be a new one beside it, which nobody could tell.

A new function, route or case often ends, and begins, as its neighbours do. The cheapest explanation of such an edit is
then that it is the next one changed, which would be gone. An edit tells the two apart by what it shows on both sides of
the block, or by the block's name, or by a line that stands in the file once only.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import takewhile

from reflexd.engine.apply.alignment import Piece
from reflexd.engine.apply.checks import alike
from reflexd.engine.apply.original import WORD, Original, weight
from reflexd.engine.apply.refusal import Refusal
from reflexd.engine.apply.scopes import CLOSES, SECTION
from reflexd.engine.apply.snippet import Snippet, defines, is_item, name_of

MOST_COMPARED = 400
MOST_INDENTED = 1 << 30
LEAST_LED = 2
"""Lines behind a statement that say something, so that they may be its own, as those of another are that one's."""
LED_ALIKE = 0.5
LONG, ALIKE = 16, 0.9
"""Characters of a line, and how alike it must be to one that is gone, to be that one changed."""
CALLED = re.compile(r"""\w+(?=\s*\()|"[^"]*"|'[^']*'""")
"""What tells a line without a name from one like it: what it calls, or a text in quotes."""
KEY_ALONE = re.compile(r"""(?!try\b|do\b)["']?[\w$@./-]+["']?\s*:\s*(?:[\[{]|[|>][+-]?)?$""")
"""A key with a block: a mapping has it once."""
BRANCH = re.compile(r"[}\s]*(?:if|elif|else|while|for|switch|match|unless|finally|default)\b")
LEADS = "What follows this line may be new with it, or be there already: show the lines on both sides of the change"
BESIDE = "This may be new beside a block like it, or take its place: show the line before it and the line behind it"


def check_siblings(pieces: Sequence[Piece], edit: Snippet, file: Original, above: Sequence[int], *, flat: bool) -> None:
    """Raise Refusal where a block of the edit takes another one's place by lines alone that stand in the file often.

    `above`: what each of the file's lines is under (scopes.parents). `flat`: what follows a section's line belongs to
    it.
    """
    places = {piece.line: piece.start for piece in pieces if piece.line >= 0 and piece.start >= 0}
    same = {row for row, place in places.items() if file.stripped[place] == edit.lines[row].strip()}
    once = {row for row in same if len(file.places[file.stripped[places[row]]]) == 1}
    covered = {place for piece in pieces if piece.start >= 0 for place in range(piece.start, piece.end)}
    covered -= {place for row, place in places.items() if row not in same}
    deleted = [place for place, text in enumerate(file.stripped) if text and place not in covered]
    if not deleted:
        return
    shown, placed = _Shown(edit, once), _Placed(pieces, len(file.lines))
    for head, line in enumerate(edit.lines):
        if edit.markers[head] or not line.strip():
            continue
        end = _end_of(head, edit, flat)
        before, behind = placed.around(head, end)
        gone = deleted[bisect_left(deleted, before) : bisect_left(deleted, behind)]
        if end == head or not gone or shown.holds(head, end):
            continue
        header = shown.header[head]
        known = head in same and (header < 0 or header in same)
        if known and defines(line):
            continue
        if known and places[head] < gone[0] and _is_alone(head, end, places, same, edit, file, above):
            continue
        rows = [row for row in range(head, end + 1) if edit.lines[row].strip()]
        own = [row for row in rows if row in same]
        alone = sum(row in once and file.weights[places[row]] == 1 for row in own)
        texts = [file.lines[place] for place in gone]
        if not own or len(own) == len(rows) or (alone and not _is_renamed(line, texts, alone, len(rows))):
            continue
        new = [edit.lines[row] for row in rows if row not in same]
        if not _is_changed(line, new, texts):
            raise Refusal("ambiguous", BESIDE, head, [gone[0]])


def check_statements(pieces: Sequence[Piece], edit: Snippet, file: Original) -> None:
    """Raise Refusal where a new line comes before lines that stand in the file often, and is like one that did.

    They may be lines of its own, as the check of an error that follows each call: then the other one has lost its own.
    """
    for number, piece in enumerate(pieces):
        if piece.line < 0 or piece.start >= 0 or not (text := edit.lines[piece.line].strip()):
            continue
        led = list(takewhile(_is_shown, pieces[number + 1 :]))
        said = [file.stripped[one.start] for one in led if file.stripped[one.start]]
        own = list(takewhile(lambda line: len(file.places[line]) > 1, said))
        if sum(weight(line) >= WORD for line in own) < LEAST_LED or not _follows(led, piece.line, edit, file):
            continue
        before = next((one for one in reversed(pieces[:number]) if one.start >= 0), Piece(0, 0))
        if before.line < 0:
            held = before.end != led[0].start
            other = next(filter(None, reversed(file.stripped[before.start : before.end])), "")
        else:
            ahead = [file.stripped[one.start] for one in takewhile(_is_shown, reversed(pieces[:number]))]
            behind = next(iter(pieces[number + 1 + len(led) :]), None)
            tail = own[-len(list(filter(None, ahead))) :][::-1]
            held = len(own) < len(said) or (behind is not None and behind.line >= 0)
            held &= list(filter(None, ahead)) != tail
            gone = [line for line in file.stripped[before.end : led[0].start] if line]
            other = gone[0] if len(gone) == 1 else ""
        if not held and _is_another(text, other):
            raise Refusal("ambiguous", LEADS, piece.line, [led[0].start])


def _is_shown(piece: Piece) -> bool:
    return piece.line >= 0 and piece.start >= 0


def _follows(led: Sequence[Piece], line: int, edit: Snippet, file: Original) -> bool:
    """Whether lines go on where a line ends: they are neither within its block nor the end of one that it is in."""
    first = next(one.start for one in led if file.stripped[one.start])
    return edit.indents[line] == file.indents[first] and not CLOSES.match(file.stripped[first])


def _is_another(line: str, other: str) -> bool:
    own, its = (name_of(text) or _said_by(CALLED.search(text)) for text in (line, other))
    return bool(own and its) and own != its and alike(line, other, LED_ALIKE)


class _Shown:
    """What an edit shows around each of its lines, before a marker."""

    def __init__(self, edit: Snippet, once: set[int]) -> None:
        """`once` are the edit's lines that the file has once only."""
        self._edit, self._once = edit, once
        lines = len(edit.lines)
        self.header = [-1] * lines
        """The nearest line above that is indented less; -1 for none."""
        self._above, self._below = [False] * lines, [False] * lines
        self._least = [0] * lines
        """How far the line below is indented that is indented least."""
        open_: list[int] = []
        found = False
        for row in range(lines):
            if edit.markers[row]:
                open_, found = [], False
                continue
            self._above[row] = found
            found |= row in once
            if edit.lines[row].strip():
                while open_ and edit.indents[open_[-1]] >= edit.indents[row]:
                    open_.pop()
                self.header[row] = open_[-1] if open_ else -1
                open_.append(row)
        found, least = False, MOST_INDENTED
        for row in reversed(range(lines)):
            self._below[row], self._least[row] = found, least
            found = not edit.markers[row] and (found or row in once)
            if edit.markers[row]:
                least = MOST_INDENTED
            elif edit.lines[row].strip():
                least = min(least, edit.indents[row])

    def holds(self, head: int, end: int) -> bool:
        """Whether it is shown where a block is: by a line that the file has once only on both sides.

        Behind it that may be the end of a block that is shown from its first line on. A block with a marker in it is
        one that is there.
        """
        edit = self._edit
        behind = next((row for row in range(end + 1, len(edit.lines)) if edit.lines[row].strip()), len(edit.lines))
        if behind < len(edit.lines) and edit.markers[behind] and edit.indents[behind] > edit.indents[head]:
            return True
        ends = self.header[head] in self._once and self._least[end] < edit.indents[head]
        return self._above[head] and (self._below[end] or ends)


class _Placed:
    """Where in the file an edit's lines, and what its markers stand for, have been put."""

    def __init__(self, pieces: Sequence[Piece], lines: int) -> None:
        self._rows: list[int] = []
        self._pieces: list[Piece] = []
        self._lines = lines
        row = -1
        for piece in pieces:
            row = max(row, piece.line)
            if piece.start >= 0:
                self._rows.append(row)
                self._pieces.append(piece)

    def around(self, head: int, end: int) -> tuple[int, int]:
        """Return between which of the file's lines a block of the edit comes."""
        before = bisect_left(self._rows, head)
        behind = bisect_right(self._rows, end)
        while behind and self._rows[behind - 1] == end and self._pieces[behind - 1].line < 0:
            behind -= 1
        return (
            self._pieces[before - 1].end if before else 0,
            self._pieces[behind].start if behind < len(self._pieces) else self._lines,
        )


def _is_alone(
    head: int, end: int, places: dict[int, int], same: set[int], edit: Snippet, file: Original, above: Sequence[int]
) -> bool:
    """Whether a block begins with a key, or with a branch's condition right behind what it follows, that has no equal.

    Nobody adds a second one of the same beside it.
    """
    text, place = file.stripped[places[head]], places[head]
    if KEY_ALONE.match(text):
        if len(file.places[text]) > 1 and edit.header(head) < 0:
            return False
    else:
        before = next((row for row in range(head - 1, -1, -1) if edit.lines[row].strip()), -1)
        behind = next((row for row in range(end + 1, len(edit.lines)) if edit.lines[row].strip()), -1)
        if not BRANCH.match(text) or before not in same or any(file.stripped[places[before] + 1 : place]):
            return False
        if behind < 0 or edit.markers[behind]:
            return False
    return sum(above[one] == above[place] for one in file.places[text]) == 1


def _end_of(head: int, edit: Snippet, flat: bool) -> int:
    """Return the last line of the block that a line begins, itself where it begins none."""
    section = flat and SECTION.match(edit.lines[head])
    end = head
    for row in range(head + 1, len(edit.lines)):
        line = edit.lines[row]
        if edit.markers[row] or (section and SECTION.match(line)):
            break
        if not line.strip():
            continue
        if section or edit.indents[row] > edit.indents[head]:
            end = row
            continue
        return row if edit.indents[row] == edit.indents[head] and CLOSES.match(line.strip()) else end
    return end


def _is_changed(head: str, new: Sequence[str], gone: Sequence[str]) -> bool:
    """Whether a block is one that was there: its first line has the name of one that is gone, or all are much alike."""
    if name := _name_of(head):
        return any(_name_of(line) == name for line in gone)
    if len(gone) * len(new) > MOST_COMPARED:
        return False
    own = CALLED.search(head)
    return all(
        len(line.strip()) >= LONG
        and any(
            alike(line.strip(), old.strip(), ALIKE) and (line != head or _said_by(own) == _said_by(CALLED.search(old)))
            for old in gone
        )
        for line in new
    )


def _is_renamed(head: str, gone: Sequence[str], alone: int, rows: int) -> bool:
    """Whether a block has a name that none which is gone has, and few lines that only one of these can have had."""
    named = defines(head) and all(name_of(line) != name_of(head) for line in gone)
    return named and alone * 4 < rows


def _said_by(found: re.Match[str] | None) -> str:
    return found[0] if found else ""


def _name_of(line: str) -> str:
    return "" if is_item(line) else name_of(line)
