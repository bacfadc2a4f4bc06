"""Decides who is computed when: prompts are read in batches of like lengths, and rows join, step and leave together."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial

import torch

from reflexd.engine.llm.embedded import EmbeddedSpec
from reflexd.engine.llm.embedded.model import LanguageModel
from reflexd.engine.llm.embedded.reading import Reading, likeliest
from reflexd.engine.llm.embedded.row import Row
from reflexd.engine.llm.embedded.sampling import choose
from reflexd.engine.llm.embedded.slab import Slab
from reflexd.engine.llm.embedded.wire import Completion, Refused, Wish

WAITING = 4
"""How many times `concurrency` may wait."""
LOOKED_AT = 256
"""Rows among which the next batch is looked for."""
OUT_OF_MEMORY = 71
DEVICE_LOST = 72
"""Exit statuses."""


def open_engine(spec: EmbeddedSpec) -> Engine:
    """Load a model and let it do once all that it will be asked for; raises StartupError."""
    if spec.threads:
        torch.set_num_threads(spec.threads)
    engine = Engine(LanguageModel(spec.directory, spec.context_tokens), spec.concurrency)
    engine.warm_up()
    return engine


class Engine:
    """Computes what is submitted, in one thread of its own."""

    def __init__(self, model: LanguageModel, concurrency: int) -> None:
        self._model, self._concurrency = model, concurrency
        self._reading = Reading(model)
        self._waiting: deque[Row] = deque()
        self._changed = threading.Condition()
        self._rows: list[Row] = []
        self._slab = Slab(concurrency)

    def submit(self, prompts: Sequence[str], wish: Wish) -> list[Future[Completion]]:
        """Queue prompts; raises Refused for a prompt that is too long or empty, and when too many wait already."""
        words, limit = self._model.vocabulary, self._model.context_tokens
        rows = [Row(prompt, words.encode(prompt), wish, words) for prompt in prompts]
        for row in rows:
            if len(row.ids) + wish.max_tokens > limit:
                raise Refused(
                    400,
                    f"This model's maximum context length is {limit} tokens. However, you requested "
                    f"{len(row.ids) + wish.max_tokens} tokens ({len(row.ids)} in the prompt; {wish.max_tokens} for "
                    "the completion). Please reduce the length of either.",
                    code="context_length_exceeded",
                    param="prompt",
                )
            if not row.ids:
                raise Refused(400, "The prompt has no tokens", param="prompt")
        with self._changed:
            if len(self._waiting) >= WAITING * self._concurrency:
                raise Refused(429, "Too many requests are waiting; ask again later", code="rate_limit_exceeded")
            self._waiting += rows
            self._changed.notify()
        return [row.done for row in rows]

    def prompt_of(self, messages: Sequence[dict[str, str]]) -> str:
        """Return a chat as the model has learned to read it; raises Refused where it has learned none."""
        return self._model.prompt_of(messages)

    def room_after(self, prompt: str) -> int:
        """Return how many tokens an answer to a prompt may have, 1 where the prompt is too long itself."""
        return max(1, self._model.context_tokens - len(self._model.vocabulary.encode(prompt)))

    def warm_up(self) -> None:
        """Read, score and continue a prompt: what cannot do that serves nobody."""
        wish = Wish(max_tokens=2, temperature=0.0, top_p=1.0, seed=None, stop=(), echo=True, logprobs=1)
        self.submit(["Hello, hello"], wish)
        row = self._waiting[0]
        while self._waiting or self._rows:
            self._turn()
        row.done.result(0)

    def run(self) -> None:
        """Compute until the process ends."""
        while True:
            with self._changed:
                while not (self._waiting or self._rows):
                    self._changed.wait()
            self._turn()

    def _turn(self) -> None:
        """Read a batch of those who wait, then let every row under way say a token."""
        if batch := self._next_batch():
            self._guarded(lambda: self._read(batch), batch)
        for at in reversed(range(len(self._rows))):
            if self._rows[at].gone:
                self._leave(at)
        if self._rows:
            self._guarded(self._step, list(self._rows))

    def _next_batch(self) -> list[Row]:
        """Take the one who waits longest, and those who wish the same and have about as much left to read."""
        with self._changed:
            waiting = [row for row in self._waiting if not row.gone]
            self._waiting = deque(waiting)
        free = self._concurrency - len(self._rows)
        oldest = next((row for row in waiting if free or not row.wish.max_tokens), None)
        if oldest is None:
            return []
        left = {row: self._reading.left(row.ids) for row in waiting[:LOOKED_AT] if _kind(row) == _kind(oldest)}
        like = sorted(left, key=lambda row: abs(left[row] - left[oldest]))  # stable: the oldest stays first
        batch: list[Row] = []
        longest = 0
        for row in like[: free if oldest.wish.max_tokens else None]:
            longest = max(longest, left[row])
            if batch and longest * (len(batch) + 1) > self._model.forward_tokens:
                break
            batch.append(row)
        with self._changed:
            taken = set(batch)
            self._waiting = deque(row for row in self._waiting if row not in taken)
        return batch

    def _read(self, batch: list[Row]) -> None:
        read = self._reading.read(batch)
        if not batch[0].wish.max_tokens:
            for row in batch:
                row.finish_unsaid()
            return
        for at, ended in enumerate(self._say(batch, read.logits)):
            if not ended:
                self._slab.join(read.keys[at], read.values[at])
                self._rows.append(batch[at])

    def _step(self) -> None:
        slab = self._slab
        ids = torch.tensor([[row.last] for row in self._rows])
        positions = torch.tensor(slab.lengths)[:, None]
        logits = self._model(ids, positions, slab.mask(), slab.cache(), last_only=True)
        slab.stepped()
        ended = self._say(self._rows, logits[:, -1])
        for at in reversed(range(len(ended))):  # from the end: leaving moves the last one
            if ended[at]:
                self._leave(at)

    def _say(self, rows: Sequence[Row], logits: torch.Tensor) -> list[bool]:
        """Let each row say its next token, and return which have ended."""
        tokens = choose(logits, [row.wish for row in rows], [row.dice for row in rows])
        said = []
        for at, (row, token) in enumerate(zip(rows, tokens, strict=True)):
            count, logprob, top = row.wish.logprobs, None, {}
            if count is not None:
                logprobs = torch.log_softmax(logits[at], -1)
                logprob = logprobs[token].item()
                top = {**likeliest(logprobs, count), token: logprob}
            said.append(row.say(token, logprob, top))
        return said

    def _leave(self, at: int) -> None:
        self._slab.leave(at)
        last = self._rows.pop()
        if at < len(self._rows):
            self._rows[at] = last

    def _guarded(self, work: Callable[[], None], rows: list[Row]) -> None:
        """Do it; what fails costs the rows that it was for, and a device without memory or sense the process."""
        try:
            work()
        except Exception as error:
            if status := fatal(error):
                print(f"the language model ends: {type(error).__name__}", file=sys.stderr, flush=True)  # noqa: T201
                os._exit(status)
            under_way = not set(rows).isdisjoint(self._rows)
            if len(rows) > 1 and not under_way:  # one of them may be to blame: each on its own
                for row in rows:
                    self._guarded(partial(self._read, [row]), [row])
                return
            # Where and what, and not the message: it may hold what was asked.
            where = "".join(traceback.format_tb(error.__traceback__))
            print(f"{where}{type(error).__name__}", file=sys.stderr, flush=True)  # noqa: T201
            refusal = Refused(500, f"The model failed on this request: {type(error).__name__}", code="internal_error")
            for row in {*rows, *self._rows} if under_way else rows:
                row.fail(refusal)
            if under_way:  # nobody can tell what is left of their keys and values
                self._rows.clear()
                self._slab = Slab(self._concurrency)


def _kind(row: Row) -> tuple[bool, bool]:
    return row.wish.max_tokens > 0, row.wish.scores_prompt


def fatal(error: Exception) -> int:
    """Return the exit status of a process that cannot go on after this, 0 where it can.

    torch says in words only that a processor's memory ran out, and a GPU that failed once fails ever after.
    """
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "not enough memory" in str(error):
        return OUT_OF_MEMORY
    return DEVICE_LOST if isinstance(error, torch.AcceleratorError) else 0
