"""Decides what a row says: its tokens become text that never shows half a character, and ends before a stop string."""

from __future__ import annotations

from concurrent.futures import Future
from itertools import pairwise
from random import Random
from typing import Any

from tokenizers.decoders import DecodeStream

from reflexd.engine.llm.embedded.wire import Completion, ScoredToken, Wish

CONTEXT = 6
"""Tokens before the answer that its first one is decoded after: some tokenizers write a leading space only then."""


class Vocabulary:
    """A tokenizer (of the tokenizers library), as rows use it."""

    def __init__(self, tokenizer: Any, ends: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self.ends = ends
        """Tokens with which a model says that it is done."""

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a prompt, with those that the model wants before each."""
        return tuple(self._tokenizer.encode(text).ids)

    def piece(self, token: int) -> str:
        """Return a token's own text, as among the alternatives of another."""
        said: str = self._tokenizer.decode([token], skip_special_tokens=False)
        return said

    def top(self, likeliest: dict[int, float]) -> dict[str, float]:
        """Return tokens by their text; of two with one text, which are halves of characters, the likelier."""
        shown: dict[str, float] = {}
        for token, logprob in likeliest.items():
            piece = self.piece(token)
            shown[piece] = max(logprob, shown.get(piece, logprob))
        return shown

    def reader(self, before: tuple[int, ...]) -> Reader:
        """Return what decodes the tokens that follow these."""
        reader = Reader(self._tokenizer, skip_special_tokens=True)
        for token in before[-CONTEXT:]:
            reader.read(token)
        return reader

    def spell(self, text: str, tokens: tuple[int, ...]) -> list[str]:
        """Return the text of each token of a prompt; together they are the prompt."""
        reader = Reader(self._tokenizer, skip_special_tokens=False)
        pieces = [reader.read(token) for token in tokens]
        if "".join(pieces) == text:
            return pieces
        # The tokenizer adds tokens, or changes the text: cut it where they begin.
        spans = self._tokenizer.encode(text).offsets
        starts = [0] * len(spans) + [len(text)]
        for at in range(len(spans) - 1, 0, -1):
            start, end = spans[at]
            starts[at] = min(starts[at + 1], start if end > start else starts[at + 1])  # what is added has no text
        return [text[start:end] for start, end in pairwise(starts)]


class Reader:
    """Decodes one token after the other, and holds back what is no whole character yet."""

    def __init__(self, tokenizer: Any, *, skip_special_tokens: bool) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=skip_special_tokens)

    def read(self, token: int) -> str:
        """Return the text that is complete with this token."""
        said: str | None = self._stream.step(self._tokenizer, token)
        return said or ""


class Row:
    """A prompt, what is wished of it, and how far its answer has come."""

    def __init__(self, prompt: str, ids: tuple[int, ...], wish: Wish, words: Vocabulary) -> None:
        self.prompt, self.ids, self.wish = prompt, ids, wish
        self.dice = Random(wish.seed)  # noqa: S311 - it draws tokens, not secrets
        self.done: Future[Completion] = Future()
        self.last = -1
        """The token that was said last, which the model has not read yet."""
        self.prompt_scores: list[ScoredToken] = []
        self._words = words
        self._reader: Reader | None = None
        self._text = ""
        self._said = 0
        self._scores: list[ScoredToken] = []

    @property
    def gone(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.done.cancelled()

    def say(self, token: int, logprob: float | None, top: dict[int, float]) -> bool:
        """Take the next token of the answer; True when that was the last."""
        self._said += 1
        self.last = token
        if token in self._words.ends:
            return self._finish("stop")
        if self._reader is None:
            self._reader = self._words.reader(self.ids)
        piece = self._reader.read(token)
        before = len(self._text)
        self._text += piece
        if self.wish.logprobs is not None:
            self._scores.append(ScoredToken(piece, logprob, self._words.top(top)))
        # A stop string may have begun in earlier tokens.
        ends = [self._text.find(stop, max(0, before - len(stop) + 1)) for stop in self.wish.stop]
        if found := [end for end in ends if end >= 0]:
            self._cut(min(found))
            return self._finish("stop")
        return self._said >= self.wish.max_tokens and self._finish("length")

    def score_prompt(self, logprobs: list[float | None], tops: list[dict[int, float]]) -> None:
        """Take the log-probabilities of the prompt's tokens: null for the first."""
        pieces = self._words.spell(self.prompt, self.ids)
        self.prompt_scores = [
            ScoredToken(piece, logprob, None if logprob is None else self._words.top(top))
            for piece, logprob, top in zip(pieces, logprobs, tops, strict=True)
        ]

    def finish_unsaid(self) -> None:
        """End a row of which no answer is wished."""
        self._finish("length")

    def fail(self, error: Exception) -> None:
        """End it with an error."""
        if not self.done.done() and self.done.set_running_or_notify_cancel():
            self.done.set_exception(error)

    def _cut(self, end: int) -> None:
        """Leave out the text from there on, and the tokens that begin in it."""
        self._text = self._text[:end]
        at = 0
        for index, token in enumerate(self._scores):
            if at + len(token.text) > end:
                self._scores = self._scores[: index + (at < end)]
                return
            at += len(token.text)

    def _finish(self, reason: str) -> bool:
        completion = Completion(
            text=self._text,
            finish_reason=reason,
            prompt_tokens=len(self.ids),
            completion_tokens=self._said,
            prompt_scores=self.prompt_scores,
            scores=self._scores,
        )
        if self.done.set_running_or_notify_cancel():
            self.done.set_result(completion)
        return True
