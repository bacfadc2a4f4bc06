"""Decides how many classifiers score one vector: their heads stacked, so that all of them are one matrix product.

A panel holds the heads that read the same vector: of one encoder, and of the same number of its layers. What follows
the product (temperatures, softmax within each head, thresholds, the share of unusual rows) is done for all heads at
once too, so that one more head costs its rows of the product and next to nothing else.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from scipy.special import expit

from reflexd.engine.encoder import Encoder, Vector
from reflexd.registry.artifacts import Domain, Head
from reflexd.schemas.reflex import Mode

Numbers = NDArray[np.float64]
Places = NDArray[np.intp]
STACKED_BYTES = 64 * 2**20
"""Heads that take more than this together are not copied into one matrix: each is a large product by itself."""
BEYOND = 8.0
"""More than any distance between two vectors of length 1, or their means."""


class LoadedHead:
    """A classifier in memory: an encoder, and one matrix that its features are multiplied with.

    `rows` [labels + means, width] are the head's weights and below them the means of its domain, filled with zeros
    where the head reads two layers: one product gives the logits and how near the means are.
    """

    def __init__(
        self,
        encoder: Encoder,
        head: Head,
        mode: Mode,
        temperature: float,
        thresholds: Sequence[float],
        domain: Domain | None,
    ) -> None:
        self.encoder = encoder
        self.labels, self.width = head.weight.shape
        self.mode, self.temperature, self.thresholds = mode, temperature, thresholds
        self.bias = head.bias
        self.squares = self.quantiles = np.zeros(0, np.float32)
        self.rows = head.weight
        if domain is not None:
            self.squares, self.quantiles = domain.squares, domain.quantiles
            means = np.pad(domain.means, ((0, 0), (0, self.width - domain.means.shape[1])))
            self.rows = np.concatenate([head.weight, means])

    @property
    def bytes(self) -> int:
        """Return the memory of its numbers, its adapter's among them."""
        own = self.rows.nbytes + self.bias.nbytes + self.squares.nbytes + self.quantiles.nbytes
        return own + self.encoder.own_bytes


class Scores(Struct, frozen=True):
    """What models say of one text, one after the other.

    `probabilities` and `selected` are of all their labels: of single_label they sum to 1 and the likeliest is selected,
    of multi_label each that reaches its threshold is. `best` is for each model the place, among these, of the likeliest
    one that is selected, -1 where none is; `in_domain` the share of the model's rows that lie at least as far from its
    labels, None where it has no domain; `windows` the parts that the text was read in.
    """

    probabilities: list[float]
    selected: list[bool]
    best: list[int]
    in_domain: list[float | None]
    windows: list[int]


class Alone:
    """One head. Numbers as few as its are faster in plain Python than in numpy, whose calls come cold to each text."""

    def __init__(self, head: LoadedHead) -> None:
        self.encoder = head.encoder
        self._head = head
        self._bias: list[float] = head.bias.tolist()
        self._squares: list[float] = head.squares.tolist()
        self._quantiles = head.quantiles.data
        self.bytes = 48 * (len(self._bias) + len(self._squares))

    def score(self, features: Vector, windows: int) -> Scores:
        """Return what the head says of a text's features [width of the encoder, both layers], read in `windows`."""
        head, count = self._head, self._head.labels
        products: list[float] = (head.rows @ features[: head.width]).tolist()
        scaled = [(value + bias) / head.temperature for value, bias in zip(products, self._bias, strict=False)]
        if head.mode == "single_label":
            highest = max(scaled)
            grown = [math.exp(value - highest) for value in scaled]
            total = math.fsum(grown)
            found = [value / total for value in grown]
            best = found.index(max(found))  # the first of equals
            selected = [False] * count
            selected[best] = True
        else:
            found = [_sigmoid(value) for value in scaled]
            selected = [value >= least for value, least in zip(found, head.thresholds, strict=True)]
            best = max((place for place in range(count) if selected[place]), key=found.__getitem__, default=-1)
        return Scores(found, selected, [best], [self._share(products[count:])], [windows])

    def _share(self, products: list[float]) -> float | None:
        """Return in_domain from the products of the means with a vector of length 1; linear between quantiles."""
        if not products:
            return None
        quantiles, last = self._quantiles, len(self._quantiles) - 1
        nearest = min(square - 2 * product for square, product in zip(self._squares, products, strict=True)) + 1
        distance = math.sqrt(max(nearest, 0.0))
        below = bisect_right(quantiles, distance) - 1
        if not 0 <= below < last:
            return 1.0 if below < 0 else 0.0
        between = (distance - quantiles[below]) / (quantiles[below + 1] - quantiles[below])
        return 1 - (below + between) / last


def _sigmoid(value: float) -> float:
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    grown = math.exp(max(value, -700.0))
    return grown / (1 + grown)


class Panel:
    """Several heads on one vector; immutable, so that any number of threads may use it."""

    def __init__(self, heads: Sequence[LoadedHead]) -> None:
        """All `heads` have the same encoder and width."""
        self.encoder = heads[0].encoder
        self._width, self._heads = heads[0].width, len(heads)
        labels = [head.labels for head in heads]
        self._starts = _starts(labels)
        self._head_of = np.repeat(np.arange(len(heads)), labels)
        self._places = np.arange(len(self._head_of))
        self._bias = np.concatenate([head.bias for head in heads])
        self._temperatures = np.repeat([head.temperature for head in heads], labels)
        members = np.array([head.mode == "multi_label" for head in heads])
        self._member = members[self._head_of] if members.any() else None
        self._thresholds = np.concatenate(
            [head.thresholds if head.mode == "multi_label" else np.zeros(head.labels) for head in heads]
        )
        weights, means = [head.rows[: head.labels] for head in heads], [head.rows[head.labels :] for head in heads]
        self._rows = np.concatenate([*weights, *means])
        self._domains = _Domains(heads) if any(len(part) for part in means) else None
        self.bytes = self._rows.nbytes + 40 * len(self._places) + (self._domains.bytes if self._domains else 0)

    def score(self, features: Vector, windows: int) -> Scores:
        """Return what each head says, as Alone.score does."""
        starts, of, count = self._starts, self._head_of, len(self._places)
        products = self._rows @ features[: self._width]
        scaled = (products[:count] + self._bias).astype(np.float64) / self._temperatures
        grown = np.exp(scaled - np.maximum.reduceat(scaled, starts)[of])
        candidates = found = grown / np.add.reduceat(grown, starts)[of]
        if self._member is not None:
            found = np.where(self._member, expit(scaled), found)
            candidates = np.where(self._member & (found < self._thresholds), -1.0, found)
        highest = np.maximum.reduceat(candidates, starts)
        best = np.minimum.reduceat(np.where(candidates == highest[of], self._places, count), starts)  # first of equals
        selected = self._places == best[of]
        if self._member is not None:
            selected = np.where(self._member, found >= self._thresholds, selected)
            best = np.where(highest < 0, -1, best)
        usual: list[float | None] = [None] * self._heads
        if self._domains is not None:
            for place, share in zip(self._domains.heads, self._domains.shares(products[count:]), strict=True):
                usual[place] = share
        return Scores(found.tolist(), selected.tolist(), best.tolist(), usual, [windows] * self._heads)


class _Domains:
    """The domains of the heads of a panel that have one."""

    def __init__(self, heads: Sequence[LoadedHead]) -> None:
        self.heads = [number for number, head in enumerate(heads) if len(head.squares)]
        having = [heads[number] for number in self.heads]
        self._squares = np.concatenate([head.squares for head in having])
        self._starts = _starts([len(head.squares) for head in having])
        lengths = np.array([len(head.quantiles) for head in having])
        self._first, self._last = _starts(lengths), lengths - 1
        # One search for all: each head's distances are moved to a stretch of their own.
        self._shift = BEYOND * np.arange(len(having))
        self._quantiles = np.concatenate([head.quantiles for head in having]) + np.repeat(self._shift, lengths)
        self.bytes = self._squares.nbytes + self._quantiles.nbytes

    def shares(self, products: NDArray[np.float32]) -> list[float]:
        """Return each head's in_domain from the products of all means with a vector of length 1."""
        nearest = np.minimum.reduceat(self._squares - 2 * products, self._starts).astype(np.float64) + 1
        distances = np.minimum(np.sqrt(np.maximum(nearest, 0.0)), BEYOND / 2) + self._shift
        below = np.searchsorted(self._quantiles, distances, side="right") - 1 - self._first
        below = np.clip(below, 0, self._last - 1)
        left, right = self._quantiles[self._first + below], self._quantiles[self._first + below + 1]
        between = np.clip((distances - left) / np.maximum(right - left, np.finfo(np.float64).tiny), 0, 1)
        shares: list[float] = (1 - (below + between) / self._last).tolist()
        return shares


class Stack:
    """Some models, each once, in an order: as few panels as they need, and how these are put together again."""

    def __init__(self, heads: Sequence[LoadedHead]) -> None:
        groups: dict[tuple[int, int], list[int]] = {}
        for number, head in enumerate(heads):
            groups.setdefault((id(head.encoder), head.width), []).append(number)
        if sum(head.rows.nbytes for head in heads) > STACKED_BYTES:
            groups = {(number, 0): [number] for number in range(len(heads))}
        self.panels: list[Alone | Panel] = [
            Alone(heads[group[0]]) if len(group) == 1 else Panel([heads[number] for number in group])
            for group in groups.values()
        ]
        self.bytes = sum(panel.bytes for panel in self.panels)
        self._several = len(groups) > 1
        # Where, in the panels' answers one after the other, each model is, and each of its labels.
        order = [number for group in groups.values() for number in group]
        self._models = np.argsort(np.array(order), kind="stable")
        sizes = np.array([heads[number].labels for number in order])
        starts = _starts(sizes)
        self._labels = np.concatenate([starts[place] + np.arange(sizes[place]) for place in self._models])

    def join(self, parts: Sequence[Scores]) -> Scores:
        """Return the panels' scores as one, in the order that the models were asked in."""
        if not self._several:
            return parts[0]
        place_of = np.empty(len(self._labels) + 1, np.intp)
        place_of[self._labels], place_of[-1] = np.arange(len(self._labels)), -1  # the last one is "none"
        offsets = _starts([len(part.probabilities) for part in parts])
        best = [
            place + offset if place >= 0 else -1
            for part, offset in zip(parts, offsets.tolist(), strict=True)
            for place in part.best
        ]
        usual = [share for part in parts for share in part.in_domain]
        windows = [number for part in parts for number in part.windows]
        models = self._models.tolist()
        return Scores(
            np.concatenate([part.probabilities for part in parts])[self._labels].tolist(),
            np.concatenate([part.selected for part in parts])[self._labels].tolist(),
            place_of[[best[number] for number in models]].tolist(),
            [usual[number] for number in models],
            [windows[number] for number in models],
        )


def _starts(sizes: Sequence[int] | Places) -> Places:
    """Return where each stretch begins when stretches of these sizes lie one after the other."""
    starts: Places = (np.cumsum(sizes) - np.asarray(sizes)).astype(np.intp)
    return starts
