"""Decides which beginnings of prompts are read once for many: those that lately asked prompts share often enough.

A noisy channel asks for the same texts behind a few descriptions, thousands of times. Where prompts part is not said
by anybody: it is found in the tokens of those that were asked last, and what the model made of a beginning is kept.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

Tokens = tuple[int, ...]

SHORTEST = 16
"""Tokens that a beginning must have, and must have more than a kept one, to be worth reading apart."""
WORTH = 3
"""How many times its own length it must have saved among the prompts that are remembered."""
REMEMBERED = 256
"""Prompts."""
UNREAD = 2
"""Tokens at the end of a prompt that never count: a row must have something left to read."""


@dataclass(frozen=True)
class Prefix:
    """What the model made of a beginning."""

    tokens: Tokens
    keys: list[torch.Tensor]
    """A layer: [1, heads, tokens, width]."""
    values: list[torch.Tensor]
    logprobs: list[float]
    """Of its tokens but the first."""
    tops: list[dict[int, float]]
    following: torch.Tensor
    """Log-probabilities of every token that could follow."""

    @property
    def nbytes(self) -> int:
        """What keeping it takes."""
        return self.following.nbytes + sum(tensor.nbytes for tensor in (*self.keys, *self.values))


class Prefixes:
    """The beginnings that are kept, the longest unused going first."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._kept: OrderedDict[Tokens, Prefix] = OrderedDict()
        self._recent: deque[Tokens] = deque(maxlen=REMEMBERED)

    def longest(self, prompt: Tokens) -> Tokens:
        """Return the longest kept beginning of a prompt; () where there is none."""
        known = (kept for kept in self._kept if prompt[: len(kept)] == kept and len(kept) <= len(prompt) - UNREAD)
        return max(known, key=len, default=())

    def of(self, prompts: Sequence[Tokens], read: Callable[[Tokens], Prefix]) -> list[Prefix | None]:
        """Return the beginning of each prompt that need not be read again; `read` reads those that are new."""
        self._recent.extend(prompt[:-UNREAD] for prompt in prompts)
        among = [*(prompt[:-UNREAD] for prompt in prompts), *list(self._recent)[: -len(prompts)]]
        found = []
        for prompt, length in zip(prompts, shared_lengths(among), strict=False):
            best = self.longest(prompt)
            if length - len(best) >= SHORTEST:
                best = prompt[:length]
                self._keep(read(best))
            if best:
                self._kept.move_to_end(best)
            found.append(self._kept.get(best))
        return found

    def _keep(self, prefix: Prefix) -> None:
        self._kept[prefix.tokens] = prefix
        while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > self._budget:
            self._kept.popitem(last=False)


def shared_lengths(prompts: Sequence[Tokens]) -> list[int]:
    """Return how many first tokens of each prompt are worth reading once, 0 for none.

    Sorted, prompts with one beginning stand together, and the shortest agreement of neighbours is what all of a run
    share. A longer beginning replaces a shorter one where it saves its readers more than reading it takes.
    """
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    agreed = [0] + [_agreement(prompts[one], prompts[next_]) for one, next_ in pairwise(order)]
    worth = [0] * len(prompts)
    runs = [(0, len(order), 0)]
    while runs:
        low, high, above = runs.pop()
        if high - low <= WORTH:
            length, parts = above, []
        else:
            common = min(agreed[low + 1 : high])
            saves = (high - low) * (common - above) > WORTH * common
            length = common if common >= SHORTEST and saves else above
            parts = [low, *(at for at in range(low + 1, high) if agreed[at] == common), high]
        for at in range(low, high):
            worth[order[at]] = length
        runs += [(start, end, length) for start, end in pairwise(parts)]
    return worth


def _agreement(one: Tokens, other: Tokens) -> int:
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length
    return next(at for at in range(length) if one[at] != other[at])
