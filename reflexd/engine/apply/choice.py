"""Decides which explanation of an edit is believed: the cheapest sound one, if no other is about as good.

What cannot be, however cheap it is, makes room for a dearer explanation that deletes nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from reflexd.engine.apply.alignment import Alignment, Boundary, Piece
from reflexd.engine.apply.checks import check_anchors
from reflexd.engine.apply.complaints import BY, STRAYED, complaint, ignored
from reflexd.engine.apply.deletions import reaches_over
from reflexd.engine.apply.refusal import Refusal
from reflexd.engine.apply.rendering import File, as_ended, text_of, words_of
from reflexd.engine.apply.snippet import Snippet
from reflexd.engine.apply.structure import left
from reflexd.engine.apply.syntax import Judge

MARGIN = 0.6
"""An explanation that costs at most so much more than the best one is about as good."""
KEEPING = 0.2
"""One that keeps lines which the best one deletes, and deletes no others, must be as near as that."""
LEAVING = 1.2
"""The same of one whose markers stay in the blocks that they are in, where one of the best one does not; FURTHEST where
that one is directly behind the block's first line."""
TIE = 0.05
"""One that costs no more than so much more is no worse: it is told by whether its file is sound."""
FURTHEST = 6.0
"""What an explanation may cost more at most than the cheapest, which cannot be."""
MOST_TRACED = 64
"""Other explanations that are looked at, the cheapest first."""
LEAST_JUDGED, MOST_JUDGED = 12, 30
"""Different answers of which it is looked at whether they are sound, of a large and of a small file."""
JUDGED_CHARACTERS = 2_000_000
"""What all of these may come to together."""
TWO_WAYS = "The update fits the file in more than one way: show more around it"


class Explanation(Struct, frozen=True):
    """What an edit may mean: its pieces, the answer's lines that are not empty, and a boundary that it has."""

    pieces: list[Piece]
    words: list[str]
    boundary: Boundary

    @property
    def cost(self) -> float:
        """As of its alignment."""
        return self.boundary.cost


class Choice:
    """The explanations of one edit of one file."""

    def __init__(self, file: File, edit: Snippet, judge: Judge) -> None:
        self._file, self._edit, self._judge = file, edit, judge
        self._alignment = Alignment(file.lines, edit)
        self._told: Refusal | None = None
        self._judged = 0
        self._most_judged = min(MOST_JUDGED, max(LEAST_JUDGED, JUDGED_CHARACTERS // max(1, len(file.text))))

    def best(self) -> tuple[list[Piece], float]:
        """Return the pieces of the one that is believed, and how sure it is; raises Refusal."""
        explanations = self._explanations()
        cheapest = next(explanations)
        check_anchors(cheapest.pieces, self._edit, self._file.lines)
        chosen, nearest = None if self._is_unsound(cheapest, cheapest) else cheapest, MARGIN
        further = self._margin(chosen)
        known = [cheapest.words]
        for one in explanations:
            if one.cost > (chosen.cost + further if chosen else cheapest.cost + FURTHEST):
                break
            if one.words in known:
                if chosen is not None and one.words == chosen.words:
                    nearest = min(nearest, one.cost - chosen.cost)
                continue
            known.append(one.words)
            if chosen is not None and one.cost > chosen.cost + MARGIN and not self._is_inside(one, cheapest):
                continue
            if chosen is not None:
                self._compare(one, chosen, cheapest)
            elif self._judged == self._most_judged:
                break
            elif not self._is_unsound(one, cheapest):
                chosen, further = one, self._margin(one)
        if chosen is None:
            raise self._told or Refusal("ambiguous", f"{BY} nothing fits")
        return chosen.pieces, round(0.5 + 0.5 * max(0.0, nearest) / MARGIN, 2)

    def _margin(self, one: Explanation | None) -> float:
        """Return what another explanation may cost more to be heeded."""
        if one is None or left(one.pieces, self._edit, self._file.lines) is None:
            return MARGIN
        return LEAVING if left(one.pieces, self._edit, self._file.lines, directly=True) is None else FURTHEST

    def _is_inside(self, one: Explanation, cheapest: Explanation) -> bool:
        """Whether an explanation is sound and keeps the markers in the blocks that they are in."""
        if left(one.pieces, self._edit, self._file.lines) is not None or self._judged >= self._most_judged:
            return False
        return self._is_unsound(one, cheapest) is None

    def _explanations(self) -> Iterator[Explanation]:
        """Yield the cheapest one, and then those through each boundary that is not far dearer."""
        seen: set[tuple[Piece, ...]] = set()
        start = Boundary(0, -1, False, self._alignment.cost)
        others = sorted(self._alignment.boundaries(FURTHEST), key=lambda one: one.cost)
        for boundary in (start, *others[:MOST_TRACED]):
            pieces = self._alignment.best() if boundary is start else self._alignment.through(boundary)
            if tuple(pieces) not in seen:
                seen.add(tuple(pieces))
                words = words_of(pieces, self._edit, self._file)
                yield Explanation(pieces, words, boundary)

    def _compare(self, rival: Explanation, chosen: Explanation, cheapest: Explanation) -> None:
        """Raise Refusal for a rival that is as good as the chosen one."""
        near = rival.cost <= chosen.cost + TIE
        inside = left(chosen.pieces, self._edit, self._file.lines) is None
        if inside and left(rival.pieces, self._edit, self._file.lines) is not None:
            return
        if self._gone(chosen) < self._gone(rival) and reaches_over(rival.pieces, self._file.lines):
            return
        # Where the chosen one deletes more than a rival, an unsound rival tells that more must be shown, too.
        if rival.cost > chosen.cost + KEEPING and self._gone(rival) < self._gone(chosen):
            return
        if ignored(rival.pieces, self._edit, self._file.lines) is not None:
            return
        if self._judged < self._most_judged and (near or self._gone(chosen) <= self._gone(rival)):
            wrong = self._is_unsound(rival, cheapest)
            if wrong is not None and (near or wrong.message == STRAYED or not self._gone(chosen)):
                return
        places = [self._alignment.place_of(chosen.pieces, rival.boundary), rival.boundary.place]
        raise Refusal("ambiguous", TWO_WAYS, min(rival.boundary.row, len(self._edit.lines) - 1), places)

    def _is_unsound(self, one: Explanation, cheapest: Explanation) -> Refusal | None:
        """Return why an explanation cannot be; None where it can. The first reason is told if none can."""
        self._judged += 1
        text = as_ended(text_of(one.pieces, self._edit, self._file), self._file)
        wrong = complaint(self._judge, text, one.pieces, self._edit, self._file.lines)
        if wrong is None and one.cost > cheapest.cost + TIE and not self._gone(one) <= self._gone(cheapest):
            wrong = self._told
        self._told = self._told or wrong
        return wrong

    def _gone(self, one: Explanation) -> set[int]:
        """Return which lines of the file that say something an explanation has not."""
        out: set[int] = set()
        at = 0
        for piece in [*one.pieces, Piece(len(self._file.raw), len(self._file.raw))]:
            if piece.start >= 0:
                out.update(place for place in range(at, piece.start) if self._file.lines.stripped[place])
                at = piece.end
        return out
