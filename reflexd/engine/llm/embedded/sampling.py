"""Decides which token follows: the likeliest, or one drawn by the row's own dice within its top_p."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import torch

from reflexd.engine.llm.embedded.wire import Wish

GREEDY = 1e-5
"""A temperature up to here draws nothing."""
NUCLEUS = 1024
"""Likeliest tokens among which top_p is looked for first: sorting a vocabulary takes longer than reading it."""


def choose(logits: torch.Tensor, wishes: Sequence[Wish], dice: Sequence[Random]) -> list[int]:
    """Return the next token of each row of logits.

    A row takes one number of its own dice for each drawn token and finds it in the summed probabilities, so that what
    the other rows are changes nothing but the last bits of the sums.
    """
    chosen: list[int] = logits.argmax(-1).tolist()
    drawing = [row for row, wish in enumerate(wishes) if wish.temperature > GREEDY]
    if not drawing:
        return chosen
    heat = torch.tensor([wishes[row].temperature for row in drawing], device=logits.device)
    shares = torch.softmax(logits[drawing].float() / heat[:, None], -1)
    throws = [dice[row].random() for row in drawing]
    whole = [at for at, row in enumerate(drawing) if wishes[row].top_p >= 1]
    for at, token in zip(whole, _find(shares[whole], [throws[at] for at in whole]), strict=True):
        chosen[drawing[at]] = token
    for at, row in enumerate(drawing):
        if wishes[row].top_p < 1:
            chosen[row] = _within(shares[at], wishes[row].top_p, throws[at])
    return chosen


def _find(shares: torch.Tensor, throws: list[float]) -> list[int]:
    if not throws:
        return []
    sums = shares.double().cumsum(-1)
    points = torch.tensor(throws, dtype=torch.float64, device=shares.device)[:, None] * sums[:, -1:]
    found: list[int] = torch.searchsorted(sums, points, right=True).clamp_(max=shares.shape[-1] - 1)[:, 0].tolist()
    return found


def _within(shares: torch.Tensor, top_p: float, throw: float) -> int:
    """Draw among the fewest likeliest tokens that have top_p of the probability together; at least one."""
    likely, tokens = shares.topk(min(NUCLEUS, shares.shape[-1]))
    if likely.sum().item() < top_p:
        likely, tokens = shares.sort(descending=True)
    before = likely.double().cumsum(-1) - likely
    kept = max(1, int((before < top_p).sum().item()))
    return int(tokens[_find(likely[None, :kept], [throw])[0]].item())
