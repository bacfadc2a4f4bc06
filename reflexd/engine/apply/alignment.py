"""Decides where in a file the lines of an edit belong: by one alignment of all of them, the cheapest there is.

An edit's line stands for the same line of the file, or is new. A marker stands for any lines, for nothing. What the
file has between two neighbours of the edit is deleted, at a cost. How cheap the edit can be explained with a boundary
of a marker at any other place of the file is known as well: that is what tells a sure answer from a guess.

Costs are of arrays over the file's lines, one line of the edit after the other: O(m n), with small constants.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from msgspec import Struct

from reflexd.engine.apply.original import WORD, Costs, Original, weight, without_space
from reflexd.engine.apply.pins import pins
from reflexd.engine.apply.snippet import Snippet, is_item, name_of

OPEN, EACH, OUT_OF_SCOPE, DEFINES = 0.7, 0.1, 0.6, 0.4
"""Of a deletion: by itself; of each line; more where it is indented less than all of the edit around it, and where it
defines what the edit does not."""
TWICE = (4.0, 1.5, 1.0)
"""Of a new line that the file has already, as a multiple of a new one's: where it or the edit has it once, twice or
more often."""
PINNED = 100.0
"""The same of a line that tells where the edit belongs (pins.py)."""
REINDENTED = 0.12
SPACED, NAMED, KEYED = 0.2, 0.45, 0.6
"""Of a line that says the same as a line of the file with other spaces, or that defines the same in other words."""
AGAIN, OFTEN, TAG = 1.0, 0.3, 0.6
"""Of a new line that defines what the file defines in one line already, on top of a new one's; of one with a key that
the file has often; and of a bare tag that it has once."""
DEEPER, SHALLOWER, INTO = 3.0, 0.5, 0.1
"""Of a marker whose first line is indented more than it, or less; and of lines behind it that are indented more."""
NOTHING = 0.4
"""Of a marker that stands for no line."""
IMPLIED = 0.5
"""Of lines before the edit's first line, or behind its last one, where no marker stands for them."""
EDGE = 1.0
"""Of a deletion beside a marker: no line of the edit bounds it there."""
MOST_PLACES = 64
"""Of one boundary, the cheapest first."""
EPSILON = 1e-3
INF = np.float32(1e9)

LAYERS = 3
UNANCHORED, ANCHORED, OPENED = range(LAYERS)
"""Since the last marker no line of the file was found, one was, or one was and then lines were deleted."""
EDGES = np.array([0, 0, EDGE], dtype=np.float32)
DELETIONS = ((UNANCHORED, UNANCHORED, OPEN + EDGE), (OPENED, ANCHORED, OPEN), (OPENED, OPENED, OPEN))
"""Layer after and before a deletion, and its price."""


class Piece(Struct, frozen=True):
    """A part of the answer: lines `start` to `end` of the file, or line `line` of the edit, for line `start` if any."""

    start: int
    end: int
    line: int = -1


class Boundary(Struct, frozen=True):
    """Where the lines of a marker begin or end: before line `row` of the edit, at `place` of the file."""

    row: int
    place: int
    begins: bool
    cost: float


class Alignment:
    """An edit against a file."""

    def __init__(self, original: Original, snippet: Snippet) -> None:
        self._original = original
        self._snippet = snippet
        m, n = len(snippet.lines), len(original.lines)
        self._own = Counter(line.strip() for line in snippet.lines)
        self._named = Counter(name_of(line) for line in snippet.lines)
        self._pins = pins(snippet, original)
        self._segments = self._segment_costs()
        self._tail = np.full(n + 1, IMPLIED, dtype=np.float32)
        self._lead = self._tail.copy()
        # With a marker at one end, the edit reaches to the file's own end at the other.
        if snippet.markers[-1] or snippet.markers[0]:
            self._tail[:] = INF
            self._lead[:] = INF
        self._tail[n] = self._lead[0] = 0
        alike: dict[str, Costs] = {}
        self._match: list[Costs | None] = [None] * m
        for row, line in enumerate(snippet.lines):
            if not snippet.markers[row]:
                # Behind a marker an item of a list is one of many: its first key tells it from the others.
                item = is_item(line) and (row == 0 or snippet.markers[row - 1])
                if item or line not in alike:
                    alike[line] = self._matches(row, named=not item)
                self._match[row] = alike[line] if not item else alike.pop(line)
        self._insert = [self._insertion(row) for row in range(m)]
        self._forward()
        self._backward()

    @property
    def cost(self) -> float:
        """Of the cheapest explanation."""
        return float((self._reached[0, UNANCHORED] + self._left[0, UNANCHORED]).min())

    def best(self) -> list[Piece]:
        """Return the pieces of the cheapest explanation, in their order."""
        place = int((self._reached[0, UNANCHORED] + self._left[0, UNANCHORED]).argmin())
        return self.through(Boundary(0, place, False, self.cost))

    def boundaries(self, within: float) -> Iterator[Boundary]:
        """Yield every boundary of a marker that an explanation at most `within` dearer than the cheapest has."""
        limit = self.cost + within
        rows = [row for row, marker in enumerate(self._snippet.markers) if marker]
        states = [(row, True, self._settled(row) + self._onward[row, UNANCHORED]) for row in rows]
        ended = [row + 1 for row in rows]
        if self._lead[-1] < INF:
            ended.append(0)
        if self._tail[0] < INF:
            states.append((len(self._snippet.lines), True, self._settled(-1) + self._tail))
        states += [(row, False, self._reached[row, UNANCHORED] + self._left[row, UNANCHORED]) for row in ended]
        for row, begins, costs in states:
            places = np.flatnonzero(costs <= limit)
            for place in places[np.argsort(costs[places], kind="stable")][:MOST_PLACES]:
                yield Boundary(row, int(place), begins, float(costs[place]))

    def through(self, boundary: Boundary) -> list[Piece]:
        """Return the pieces of the cheapest explanation that has this boundary."""
        row, place = boundary.row, boundary.place
        layer = UNANCHORED
        if boundary.begins:
            layer = int(self._settling(row)[:, place].argmin())
        back, first = self._trace_back(row, layer, place, deleted=boundary.begins)
        ahead, last = self._trace_ahead(row, place, deletes=not boundary.begins)
        pieces = [Piece(0, first)] if first else []
        pieces += [*reversed(back), *ahead]
        return [*pieces, Piece(last, len(self._original.lines))] if last < len(self._original.lines) else pieces

    def place_of(self, pieces: Sequence[Piece], boundary: Boundary) -> int:
        """Return where a boundary lies in an explanation that has it elsewhere; behind the last line if nowhere."""
        last = -1
        for piece in pieces:
            if boundary.begins and piece.line < 0 and last == boundary.row - 1:
                return piece.start
            if piece.line >= boundary.row and piece.start >= 0:
                return piece.start
            last = max(last, piece.line)
        return len(self._original.lines)

    def _settling(self, row: int) -> Costs:
        """Return what it costs by layer to be done with the lines before a marker, or before the end [3, n + 1]."""
        out: Costs = self._passed[row] + EDGES[:, None]
        return out

    def _settled(self, row: int) -> Costs:
        out: Costs = self._settling(row).min(axis=0)
        return out

    def _segment_costs(self) -> list[Costs]:
        """Return for each row [m + 1] what it costs to delete the file's lines up to each place [n + 1]."""
        snippet, out = self._snippet, list[Costs]()
        plain = EACH * self._original.weights
        for name, places in self._original.named.items():
            if not name.startswith("= ") and not self._named[name]:
                plain[places] += DEFINES
        start, known = 0, dict[int, Costs]()
        segment = [0] * (len(snippet.lines) + 1)
        for row in range(len(snippet.lines) + 1):
            if row == len(snippet.lines) or snippet.markers[row]:
                indents = [snippet.indents[place] for place in range(start, row) if snippet.indents[place] >= 0]
                least = min(indents, default=0)
                for place in range(start, row + 1):
                    segment[place] = least
                start = row + 1
        for least in segment:
            if least not in known:
                outside = (self._original.indents >= 0) & (self._original.indents < least)
                known[least] = np.concatenate([[0], np.cumsum(plain + OUT_OF_SCOPE * outside)]).astype(np.float32)
            out.append(known[least])
        return out

    def _matches(self, row: int, *, named: bool) -> Costs:
        """Return what it costs to take a line of the edit for each line of the file [n].

        `named`: it may stand for a line that defines the same in other words.
        """
        original, line = self._original, self._snippet.lines[row]
        text = line.strip()
        out = np.full(len(original.lines), INF, dtype=np.float32)
        if text not in original.places:
            name = name_of(text) if named else ""
            for place in original.named.get(name, ()) if name else ():
                alike = original.indents[place] == self._snippet.indents[row]
                if name.startswith("= "):
                    out[place] = KEYED + (0 if alike else 0.4)
                else:
                    out[place] = NAMED + (0 if alike else REINDENTED)
            for place in original.spaced.get(without_space(text), ()):
                alike = original.indents[place] == self._snippet.indents[row]
                out[place] = SPACED + (0 if alike else REINDENTED)
        for place in original.places.get(text, ()):
            same = original.lines[place].rstrip() == line.rstrip()
            out[place] = 0 if same else REINDENTED
        return out

    def _insertion(self, row: int) -> float:
        text = self._snippet.lines[row].strip()
        cost = weight(text)
        often = len(self._original.places.get(text, ()))
        if cost == 1 and not often and (name := name_of(text)):
            named = len(self._original.named.get(name, ()))
            if named == 1 and self._named[name] == 1:
                return cost + AGAIN
            return cost + OFTEN * (named > 1 and name.startswith("= "))
        if cost < 1 and often == 1 and self._own[text] == 1 and text.startswith("<"):
            return cost + TAG
        if cost < WORD or not often:
            return cost
        if row in self._pins:
            return cost * PINNED
        return cost * TWICE[min(max(often, self._own[text]), len(TWICE)) - 1]

    def _edges(self, row: int) -> tuple[Costs, Costs]:
        """Return what it costs that a marker's lines begin at each place, and that they end there [n + 1]."""
        own, following = self._snippet.indents[row], self._original.next_indent
        level = self._snippet.level(row)
        begins = np.where(following > level, DEEPER, np.where((following < own) & (following >= 0), SHALLOWER, 0))
        ends = np.where(following > own, INTO, 0)
        return begins.astype(np.float32), ends.astype(np.float32)

    def _forward(self) -> None:
        """Fill in what it costs to come to each row, layer and place: before (`reached`) and after deletions."""
        m, n = len(self._snippet.lines), len(self._original.lines)
        self._reached = np.full((m + 1, LAYERS, n + 1), INF, dtype=np.float32)
        self._passed = np.empty_like(self._reached)
        self._reached[0, UNANCHORED] = self._lead
        for row in range(m + 1):
            now, passed, costs = self._reached[row], self._passed[row], self._segments[row]
            passed[:] = now
            for layer, source, price in DELETIONS:
                deleted = np.minimum.accumulate(now[source] - costs) + (costs + price)
                np.minimum(passed[layer], deleted, out=passed[layer])
            if row == m:
                break
            match, after = self._match[row], self._reached[row + 1]
            if match is None:
                begins, ends = self._edges(row)
                settled, out = self._settled(row), after[UNANCHORED]
                out[1:] = np.minimum.accumulate(settled + begins)[:-1]
                np.minimum(out, settled + NOTHING, out=out)
                out += ends
            else:
                after[:] = passed + self._insert[row]
                after[ANCHORED, 1:] = np.minimum(after[ANCHORED, 1:], passed.min(axis=0)[:-1] + match)

    def _backward(self) -> None:
        """Fill in what it costs from each row, layer and place to the end: without and with deletions first."""
        m, n = len(self._snippet.lines), len(self._original.lines)
        self._onward = np.empty((m + 1, LAYERS, n + 1), dtype=np.float32)
        self._left = np.empty_like(self._onward)
        for row in range(m, -1, -1):
            now = self._onward[row]
            if row == m:
                now[:] = self._tail + EDGES[:, None]
            elif (match := self._match[row]) is None:
                begins, ends = self._edges(row)
                ended = ends + self._left[row + 1, UNANCHORED]
                skipped = ended + NOTHING
                later = np.minimum.accumulate(ended[::-1])[::-1][1:] + begins[:n]
                np.minimum(skipped[:n], later, out=skipped[:n])
                now[:] = skipped + EDGES[:, None]
            else:
                after = self._left[row + 1]
                now[:] = after + self._insert[row]
                now[:, :-1] = np.minimum(now[:, :-1], match + after[ANCHORED, 1:])
            costs, left = self._segments[row], self._left[row]
            left[:] = now
            for layer, source, price in DELETIONS:
                deleted = np.minimum.accumulate((now[layer] + costs)[::-1])[::-1] - (costs - price)
                np.minimum(left[source], deleted, out=left[source])

    def _trace_ahead(self, row: int, place: int, *, deletes: bool) -> tuple[list[Piece], int]:
        """Return the pieces from a row on, and where the file's lines behind the edit begin."""
        out: list[Piece] = []
        layer = UNANCHORED
        while True:
            now, costs = self._onward[row], self._segments[row]
            if deletes and now[layer, place] > self._left[row, layer, place] + EPSILON:
                choices = [(to, price) for to, source, price in DELETIONS if source == layer]
                found = [now[to, place + 1 :] + costs[place + 1 :] + price for to, price in choices]
                which = int(np.argmin([one.min(initial=INF) for one in found]))
                place += 1 + int(found[which].argmin())
                layer = choices[which][0]
            if row == len(self._snippet.lines):
                return out, place
            match, after = self._match[row], self._left[row + 1]
            if match is None:
                begins, ends = self._edges(row)
                ended = ends + after[UNANCHORED]
                ended[place] += NOTHING - begins[place]
                further = place + int(ended[place:].argmin())
                if further > place:
                    out.append(Piece(place, further))
                place, layer = further, UNANCHORED
            elif (
                place < len(match)
                and match[place] + after[ANCHORED, place + 1] <= self._insert[row] + after[layer, place] + EPSILON
            ):
                out.append(Piece(place, place + 1, row))
                place, layer = place + 1, ANCHORED
            else:
                out.append(Piece(-1, -1, row))
            row, deletes = row + 1, True

    def _trace_back(self, row: int, layer: int, place: int, *, deleted: bool) -> tuple[list[Piece], int]:
        """Return the pieces before a row, the last one first, and where the file's lines before the edit end."""
        out: list[Piece] = []
        while True:
            now, costs = self._reached[row], self._segments[row]
            if deleted and now[layer, place] > self._passed[row, layer, place] + EPSILON:
                choices = [(source, price) for to, source, price in DELETIONS if to == layer]
                found = [now[source, :place] - costs[:place] + price for source, price in choices]
                which = int(np.argmin([one.min(initial=INF) for one in found]))
                place, layer = int(found[which].argmin()), choices[which][0]
            if row == 0:
                return out, place
            row -= 1
            match, before = self._match[row], self._passed[row]
            if match is None:
                begins, _ = self._edges(row)
                began = self._settled(row)[: place + 1] + begins[: place + 1]
                began[place] += NOTHING - begins[place]
                start = int(began.argmin())
                if start < place:
                    out.append(Piece(start, place))
                place = start
                layer = int(self._settling(row)[:, place].argmin())
            else:
                best = int(before[:, place - 1].argmin()) if place else 0
                matched = before[best, place - 1] + match[place - 1] if place and layer == ANCHORED else INF
                if matched <= before[layer, place] + self._insert[row] + EPSILON:
                    place, layer = place - 1, best
                    out.append(Piece(place, place + 1, row))
                else:
                    out.append(Piece(-1, -1, row))
            deleted = True
