"""Decides whether the file that a model gave for an update is believed: it must be a reading of the update.

A reading is what the engine itself looks for: the file's lines and the update's, each in its order, with what is new
beside the lines that the update shows around it. The model only says which reading is meant. What the engine can tell
of any reading holds for the model's, too: deletions are bounded, no definition is lost or doubled, indentation is moved
as a whole. Nothing is invented, leaked, forgotten, or put elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, takewhile

from reflexd.engine.apply import snippet as snippets
from reflexd.engine.apply.alignment import Alignment, Piece
from reflexd.engine.apply.changes import changed_lines, kept_lines
from reflexd.engine.apply.checks import check_anchors, check_deletions, check_versions, with_versions
from reflexd.engine.apply.complaints import complaint
from reflexd.engine.apply.indentation import placed, restyled
from reflexd.engine.apply.merge import MOST_CELLS, merge
from reflexd.engine.apply.messages import Done
from reflexd.engine.apply.original import read_original
from reflexd.engine.apply.refusal import Refusal
from reflexd.engine.apply.rendering import BOM, File, as_ended, lines_of, parts, read, said, text_of
from reflexd.engine.apply.scopes import left_block
from reflexd.engine.apply.siblings import check_siblings, check_statements
from reflexd.engine.apply.snippet import Snippet, is_doubtful, is_marker
from reflexd.engine.apply.syntax import Judge

MOST_LOST = 0.5
REASON = "invalid_output"
SAYS_NOTHING = ("empty_update", "only_markers", "too_large")
"""Refusals of updates for which there is no right file."""


def verify(original: str, update: str, output: str) -> Done:
    """Return the model's file with the bytes of the lines that it kept; raises Refusal."""
    try:
        merged = merge(original, update)
    except Refusal as told:
        if told.reason in SAYS_NOTHING:
            raise
        return _believed(original, update, output)
    # Where the engine knows, another file is another explanation of the update: then neither is sure.
    if said(lines_of(merged.text)) != said(lines_of(output)):
        raise Refusal(REASON, "The model's file is not what the update leads to")
    return Done(text=merged.text, changed=merged.changed)


def _believed(original: str, update: str, output: str) -> Done:
    bom = BOM if original.startswith(BOM) else ""
    file = read(original[len(bom) :])
    given = [line.rstrip() for line in lines_of(output)]
    edit = _edit(file, update, given)
    _compare(file, edit, given)
    if len(edit.lines) * len(given) > MOST_CELLS:
        raise Refusal("too_large", "The file and the update are too long together to look at a model's answer")
    kept = {
        other + row: start + row
        for start, other, size in kept_lines([line.rstrip() for line in file.lines.lines], given)
        for row in range(size)
    }
    pieces = _reading(edit, given, kept)
    new = [line for _, _, line in parts(pieces, edit, file) if line is not None]
    if said(new) != said(line for row, line in enumerate(given) if row not in kept):
        raise Refusal(REASON, "The model indented lines otherwise than the update does")
    pieces = with_versions(pieces, edit, file.lines)
    check_anchors(pieces, edit, file.lines)
    check_versions(pieces, edit, file.lines)
    check_deletions(pieces, edit, file.lines)
    judge = Judge(file.text)
    check_siblings(pieces, edit, file.lines, judge.above, flat=judge.flat)
    check_statements(pieces, edit, file.lines)
    if left_block(pieces, edit, file.lines) is not None:
        raise Refusal(REASON, "The model put lines of the update into another block than it does")
    said_lines = as_ended(text_of(pieces, edit, file), file)
    if (wrong := complaint(judge, said_lines, pieces, edit, file.lines)) is not None:
        raise wrong
    text = bom + _written(file, given, kept)
    return Done(text=text, changed=changed_lines(original.split("\n"), text.split("\n")))


def _edit(file: File, update: str, given: Sequence[str]) -> Snippet:
    """Read an update; a comment that may or may not be a marker is none where the model took it for a line."""
    lines = placed(restyled(lines_of(update), file.lines), file.lines)
    taken = {line.strip() for line in given if is_doubtful(line)}
    return snippets.read(lines, file.lines.places.keys() | taken)


def _compare(file: File, edit: Snippet, given: Sequence[str]) -> None:
    """Raise Refusal where a model's lines as a set are not those of the two texts: then it can be said how."""
    asked = {line.strip() for line, marker in zip(edit.lines, edit.markers, strict=True) if not marker} - {""}
    own = {line.strip() for line in given} - {""}
    if not own:
        raise Refusal(REASON, "The model answered with nothing")
    foreign = own - file.lines.places.keys() - asked
    if any(map(is_marker, foreign)):
        raise Refusal(REASON, "The model left a marker for existing code in the file")
    if foreign:
        raise Refusal(REASON, "The model wrote lines that stand neither in the file nor in the update")
    if asked - own:
        raise Refusal(REASON, "The model left out lines of the update")
    gone = Counter(map(str.strip, file.said)) - Counter(map(str.strip, given))
    if gone.total() > MOST_LOST * len(file.said):
        raise Refusal(REASON, "The model left out most of the file")


def _reading(edit: Snippet, given: Sequence[str], kept: dict[int, int]) -> list[Piece]:
    """Return which lines of a model's file [n] are the file's, `kept`, and which the update's; raises Refusal."""
    aligned = Alignment(read_original(given), edit).best()
    rows = {
        piece.start: piece.line
        for piece in aligned
        if piece.line >= 0 and piece.start >= 0 and given[piece.start].strip() == edit.lines[piece.line].strip()
    }
    asked = {row for row, line in enumerate(edit.lines) if line.strip() and not edit.markers[row]}
    if asked - set(rows.values()):
        raise Refusal(REASON, "The model put lines of the update elsewhere than it does")
    pieces: list[Piece] = []
    for place, line in enumerate(given):
        start = kept.get(place, -1)
        if place in rows:
            pieces.append(Piece(start, start + 1 if start >= 0 else -1, rows[place]))
        elif start >= 0 and pieces and pieces[-1].line < 0 and pieces[-1].end == start:
            pieces[-1] = Piece(pieces[-1].start, start + 1)
        elif start >= 0:
            pieces.append(Piece(start, start + 1))
        elif line:
            raise Refusal(REASON, "The model moved lines of the file, or wrote lines of the update twice")
    _check_places(edit, given, rows, kept)
    return pieces


def _check_places(edit: Snippet, given: Sequence[str], rows: dict[int, int], kept: dict[int, int]) -> None:
    """Raise Refusal where new lines stand beside neither of the lines that the update shows around them."""
    spoken = [place for place, line in enumerate(given) if line]
    shown = [row for row, line in enumerate(edit.lines) if line.strip()]
    next_row = dict(pairwise(shown))
    new = [place in rows and place not in kept for place in spoken] + [False]
    # Whether the update shows a line right behind the one before it, as the model does.
    beside = [False] * (len(spoken) + 1)
    for number, (one, other) in enumerate(pairwise(spoken), 1):
        beside[number] = one in rows and other in rows and next_row.get(rows[one]) == rows[other]
    start = 0
    while start < len(spoken):
        end = start + 1
        while new[start] and new[end] and beside[end]:
            end += 1
        if new[start] and not beside[start] and not beside[end]:
            raise Refusal(REASON, "The model put new lines elsewhere than the update does")
        start = end


def _written(file: File, given: Sequence[str], kept: dict[int, int]) -> str:
    """Return a model's file with the bytes of the lines that it kept, empty ones between two of them, and its ends."""
    spoken = [row for row, line in enumerate(given) if line]
    out = _empty(file.raw)
    for last, row in pairwise([-1, *spoken]):
        between = given[last + 1 : row]
        lines = [line + file.ending for line in between]
        if last in kept and row in kept:
            own = file.raw[kept[last] + 1 : kept[row]]
            lines = lines if any(map(str.strip, own)) else own
        out += [*lines, file.raw[kept[row]] if row in kept else given[row] + file.ending]
    return as_ended([*out, *reversed(_empty(file.raw[::-1]))], file)


def _empty(lines: Sequence[str]) -> list[str]:
    return list(takewhile(lambda line: not line.strip(), lines))
