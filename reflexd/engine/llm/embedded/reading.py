"""Decides how prompts are read: many in one forward, behind beginnings read before, with logits of a bounded size.

A row stands as [padding, beginning, padding, the rest]: each row's last token is in the last column, and holes are
masked. Of a prompt that is only scored, the last token need not be read: nothing follows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers.cache_utils import Cache

from reflexd.engine.llm.embedded.model import LanguageModel
from reflexd.engine.llm.embedded.prefixes import Prefix, Prefixes, Tokens
from reflexd.engine.llm.embedded.row import Row
from reflexd.engine.llm.embedded.wire import MAX_LOGPROBS

PREFIX_BYTES = 256 << 20


@dataclass
class Scores:
    """Log-probabilities of tokens, and of the likeliest at their places."""

    logprobs: list[float] = field(default_factory=list)
    tops: list[dict[int, float]] = field(default_factory=list)


@dataclass
class Read:
    """What is needed to go on: logits [rows, vocabulary] of what follows, and what a slab takes of each row."""

    logits: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    keys: list[list[list[torch.Tensor]]] = field(default_factory=list)
    values: list[list[list[torch.Tensor]]] = field(default_factory=list)


class Reading:
    """Reads prompts, and keeps the beginnings that many share."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._prefixes = Prefixes(PREFIX_BYTES)

    def left(self, prompt: Tokens) -> int:
        """Return how many tokens of a prompt have to be read."""
        return len(prompt) - len(self._prefixes.longest(prompt))

    def read(self, rows: Sequence[Row]) -> Read:
        """Read the rows' prompts, and score those that wish it.

        Rows of one call wish the same: all have answers or none has, and all score their prompts or none does.
        """
        prompts = [row.ids for row in rows]
        answered, scoring = rows[0].wish.max_tokens > 0, rows[0].wish.scores_prompt
        if not answered and (not scoring or max(map(len, prompts)) == 1):  # nothing precedes a single token
            for row in rows if scoring else ():
                row.score_prompt([None], [{}])
            return Read()
        found: list[Prefix | None] = [None] * len(rows)
        if self._model.shares:
            found = self._prefixes.of(prompts, self._read_prefix)
        depths = [0 if prefix is None else len(prefix.tokens) for prefix in found]
        rests = [prompt[depth : None if answered else -1] for prompt, depth in zip(prompts, depths, strict=True)]
        cache = self._behind(found)
        top = max(row.wish.logprobs or 0 for row in rows)
        scores, logits = self._forward(rests, prompts, depths, cache, top, scoring)
        if scoring:
            for row, prefix, score in zip(rows, found, scores, strict=True):
                _score(row, prefix, score)
        if not answered:
            return Read()
        width, end = max(depths), max(depths) + max(map(len, rests))
        spans = [[(width - depth, width), (end - len(rest), end)] for depth, rest in zip(depths, rests, strict=True)]
        keys = [[[layer.keys[at, :, a:b] for a, b in span] for layer in cache.layers] for at, span in enumerate(spans)]
        values = [
            [[layer.values[at, :, a:b] for a, b in span] for layer in cache.layers] for at, span in enumerate(spans)
        ]
        return Read(logits, keys, values)

    def _forward(
        self,
        rests: list[Tokens],
        prompts: list[Tokens],
        depths: list[int],
        cache: Cache,
        top: int,
        scoring: bool,
    ) -> tuple[list[Scores], torch.Tensor]:
        """Read what is left of the prompts, some columns at a time; return scores and the last column's logits."""
        count, before, width = len(rests), max(depths), max(map(len, rests))
        ids = torch.zeros(count, width, dtype=torch.long)
        positions, following = torch.zeros_like(ids), torch.zeros_like(ids)
        mask = torch.zeros(count, before + width, dtype=torch.bool)
        known = []
        for row, (rest, prompt, depth) in enumerate(zip(rests, prompts, depths, strict=True)):
            start = width - len(rest)
            ids[row, start:] = torch.tensor(rest, dtype=torch.long)
            positions[row, start:] = torch.arange(depth, depth + len(rest))
            after = prompt[depth + 1 : depth + 1 + len(rest)]
            following[row, start : start + len(after)] = torch.tensor(after, dtype=torch.long)
            known.append((start, start + len(after)))
            mask[row, before - depth : before] = True
            mask[row, before + start :] = True
        scores = [Scores() for _ in rests]
        step = max(1, (self._model.logit_positions if scoring else self._model.forward_tokens) // count)
        logits = torch.empty(0)
        for at in range(0, width, step):
            end = min(width, at + step)
            logits = self._model(
                ids[:, at:end], positions[:, at:end], mask[:, : before + end], cache, last_only=not scoring
            )
            if scoring:
                _collect(scores, logits, following[:, at:end], [(a - at, b - at) for a, b in known], top)
        return scores, logits[:, -1]

    def _read_prefix(self, tokens: Tokens) -> Prefix:
        cache = self._model.cache()
        scores, logits = self._forward([tokens], [tokens], [0], cache, MAX_LOGPROBS, scoring=True)
        return Prefix(
            tokens=tokens,
            keys=[layer.keys for layer in cache.layers],
            values=[layer.values for layer in cache.layers],
            logprobs=scores[0].logprobs,
            tops=scores[0].tops,
            following=torch.log_softmax(logits[0], -1),
        )

    def _behind(self, found: Sequence[Prefix | None]) -> Cache:
        """Return a cache that begins with each row's beginning, on the right."""
        longest = max((prefix for prefix in found if prefix is not None), key=lambda one: len(one.tokens), default=None)
        if longest is None:
            return self._model.cache()
        width = len(longest.tokens)
        readers: dict[Tokens, list[int]] = {}
        for row, prefix in enumerate(found):
            if prefix is not None:
                readers.setdefault(prefix.tokens, []).append(row)
        if len(readers) == 1 and None not in found:
            expanded = (len(found), -1, -1, -1)
            pairs = zip(longest.keys, longest.values, strict=True)
            return self._model.cache([(keys.expand(expanded), values.expand(expanded)) for keys, values in pairs])
        layers = []
        for number in range(len(longest.keys)):
            pair = []
            for kind in ("keys", "values"):
                like = getattr(longest, kind)[number]
                whole = like.new_zeros(len(found), like.shape[1], width, like.shape[3])
                for tokens, rows in readers.items():
                    prefix = found[rows[0]]
                    whole[rows, :, width - len(tokens) :] = getattr(prefix, kind)[number]
                pair.append(whole)
            layers.append((pair[0], pair[1]))
        return self._model.cache(layers)


def _score(row: Row, prefix: Prefix | None, score: Scores) -> None:
    """Join the scores of a beginning, of the token that follows it, and of the rest."""
    count = row.wish.logprobs or 0
    logprobs: list[float | None] = [None]
    tops: list[dict[int, float]] = [{}]
    if prefix is not None:
        token = row.ids[len(prefix.tokens)]
        logprobs += [*prefix.logprobs, prefix.following[token].item()]
        tops += [*prefix.tops, likeliest(prefix.following, MAX_LOGPROBS)]
    logprobs += score.logprobs
    tops += score.tops
    shown = [dict(list(top.items())[:count]) for top in tops]
    for token, logprob, top in zip(row.ids, logprobs, shown, strict=True):
        if logprob is not None:
            top.setdefault(token, logprob)
    row.score_prompt(logprobs, shown)


def _collect(
    scores: list[Scores], logits: torch.Tensor, following: torch.Tensor, known: list[tuple[int, int]], top: int
) -> None:
    """Add what these columns say about the tokens that follow them, where such a token is known."""
    norms = logits.logsumexp(-1)
    logprobs = (logits.gather(-1, following.to(logits.device)[:, :, None])[:, :, 0] - norms).tolist()
    likely, tokens = logits.topk(top, -1) if top else (None, None)
    columns = logits.shape[1]
    for row, (start, end) in enumerate(known):
        start, end = max(0, start), min(columns, end)
        if start >= end:
            continue
        scores[row].logprobs += logprobs[row][start:end]
        if likely is None or tokens is None:
            scores[row].tops += [{} for _ in range(start, end)]
            continue
        values = (likely[row, start:end] - norms[row, start:end, None]).tolist()
        names = tokens[row, start:end].tolist()
        scores[row].tops += [dict(zip(*pair, strict=True)) for pair in zip(names, values, strict=True)]


def likeliest(logprobs: torch.Tensor, count: int) -> dict[int, float]:
    """Return the likeliest tokens with their log-probabilities, the first one first."""
    likely, tokens = logprobs.topk(count)
    return dict(zip(tokens.tolist(), likely.tolist(), strict=True))
