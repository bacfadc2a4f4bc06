"""Decides how texts are classified: one forward a text for each encoder that is asked, then its heads on the features.

Heads on an untouched encoder share its forward. A tuned model's encoder is one of its own to this module, though all
its kind share a session. A call begins at most as many texts at once as there are threads, and engine/turns.py says
whose piece of work is done next. A text that is asked for twice in a call is read once.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from msgspec import Struct

from reflexd import observability
from reflexd.engine.encoder import Encoder, Vector
from reflexd.engine.panel import Alone, Panel, Scores, Stack
from reflexd.engine.residents import Models, Residents
from reflexd.engine.turns import Turns
from reflexd.errors import ContextLengthExceeded, InvalidRequest, ReflexError, Unavailable

MAX_CHUNKED_TOKENS = 65_536
"""Tokens of the longest text that is read in windows."""

T = TypeVar("T")
Row = tuple[str, Models]
"""A text, and the ids of the models that are to classify it, at least one."""


class Outcome(Struct):
    """What came of a call: for each row its scores or why its text cannot be read; and what it took, in seconds."""

    rows: list[Scores | ReflexError]
    waited: float
    """From the call to the first piece of its work."""
    computed: float
    """From then to the last."""


class _Reading:
    """What one encoder has to read of a text, and the vectors of what it has read."""

    def __init__(self, encoder: Encoder, ids: list[int]) -> None:
        self.encoder = encoder
        self.windows = encoder.windows(ids)
        self.vectors: dict[int, Vector] = {}

    def read(self, number: int) -> None:
        """Read one window."""
        self.vectors[number] = self.encoder.forward(self.windows[number])

    def features(self) -> Vector:
        """Return the features of the whole text; every window has been read."""
        return self.encoder.join(self.windows, [self.vectors[number] for number in range(len(self.windows))])


class _Text:
    """A text of a call, the rows that ask about it, and what is still to be read."""

    def __init__(self, text: str, rows: list[tuple[int, Models]]) -> None:
        self.text = text
        self.rows = rows
        self.stacks: list[Stack] = []
        self.readings: dict[int, _Reading] = {}
        self.pending: deque[tuple[_Reading, int]] = deque()
        self.unread = 0


class _Call:
    """A call under way; its pieces of work run in the threads, and the last one concludes it."""

    def __init__(
        self, given: tuple[Residents, Turns, int], key: str, bulk: bool, chunk: bool, rows: Sequence[Row]
    ) -> None:
        self._residents, self._turns, self._threads = given
        self._put = partial(self._turns.put, key, bulk=bulk)
        self._chunk = chunk
        self._lock = threading.Lock()
        places: dict[str, _Text] = {}
        for place, (text, models) in enumerate(rows):
            if (known := places.get(text)) is None:
                places[text] = _Text(text, [(place, models)])
            else:
                known.rows.append((place, models))
        self._left = len(places)
        self._texts: Iterator[_Text] = iter(places.values())
        self._out: list[Any] = [None] * len(rows)
        self._began = 0.0
        self._asked = time.perf_counter()
        self.ended = False
        self.conclude: Callable[[Outcome | BaseException], None] = lambda _: None

    def start(self) -> None:
        """Put the first pieces of work; `conclude` is called in a thread, once."""
        for _ in range(min(self._threads, self._left)):
            self._put(self._next_text)

    def _next_text(self) -> None:
        """Begin the next text, and read it if that takes one forward."""
        if self.ended:
            return
        with self._lock:
            text = next(self._texts, None)
            self._began = self._began or time.perf_counter()
        if text is None:
            return
        try:
            problem = self._open(text)
            if problem is not None:
                for place, _ in text.rows:
                    self._out[place] = problem
                self._after(text)
            elif text.unread == 1:
                self._read(text)
            else:
                for _ in range(min(self._threads, text.unread)):
                    self._put(partial(self._next_window, text))
        except BaseException as error:
            self._fail(error)

    def _open(self, text: _Text) -> ReflexError | None:
        """Split a text into what its encoders read; return why it cannot be read where that is so."""
        text.stacks = [self._residents.stack(models) for _, models in text.rows]
        ids: dict[tuple[int, int], list[int]] = {}  # encoders that are adapted from one share its tokens
        for encoder in {id(p.encoder): p.encoder for stack in text.stacks for p in stack.panels}.values():
            longest = MAX_CHUNKED_TOKENS if self._chunk else encoder.description.max_tokens
            spelled = encoder.spelling, longest
            if spelled not in ids:
                try:
                    found = encoder.token_ids_up_to_limit(text.text, longest)
                except ValueError:
                    return InvalidRequest("The text holds nothing that the model can read", param="text")
                if found is None:
                    return ContextLengthExceeded(
                        f"The text has more than the {longest} tokens that fit the model", param="text"
                    )
                ids[spelled] = found
            text.readings[id(encoder)] = _Reading(encoder, ids[spelled])
        for reading in text.readings.values():
            text.pending.extend((reading, number) for number in range(len(reading.windows)))
        text.unread = len(text.pending)
        return None

    def _next_window(self, text: _Text) -> None:
        if self.ended:
            return
        try:
            self._read(text)
        except BaseException as error:
            self._fail(error)

    def _read(self, text: _Text) -> None:
        """Read the next window of a text; score it when that was the last one, else put a piece for the next."""
        try:
            reading, number = text.pending.popleft()
        except IndexError:  # other threads have taken all that were left
            return
        reading.read(number)
        with self._lock:
            text.unread -= 1
            done = not text.unread
        if done:
            self._score(text)
            self._after(text)
        elif text.pending:
            self._put(partial(self._next_window, text))

    def _score(self, text: _Text) -> None:
        features = {number: reading.features() for number, reading in text.readings.items()}
        scored: dict[Alone | Panel, Scores] = {}  # rows that ask the same of one text share what came of it

        def score(panel: Alone | Panel) -> Scores:
            if panel not in scored:
                number = id(panel.encoder)
                scored[panel] = panel.score(features[number], len(text.readings[number].windows))
            return scored[panel]

        for (place, _), stack in zip(text.rows, text.stacks, strict=True):
            self._out[place] = stack.join([score(panel) for panel in stack.panels])

    def _after(self, text: _Text) -> None:
        """Count a text as done; conclude after the last one, else put a piece for the next."""
        text.readings.clear()
        text.stacks.clear()
        with self._lock:
            self._left -= 1
            done, self.ended = not self._left, self.ended or not self._left
        if done:
            now = time.perf_counter()
            self.conclude(Outcome(self._out, self._began - self._asked, now - self._began))
        else:
            self._put(self._next_text)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            told, self.ended = self.ended, True
        if not told:
            self.conclude(error)


class Predictor:
    """Threads that classify with the classifiers in memory, off the event loop."""

    def __init__(self, residents: Residents, threads: int) -> None:
        self.residents = residents
        self.threads = threads
        self._turns = Turns()
        self._closed = False
        self._pool = [
            threading.Thread(target=self._work, name=f"predict-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._pool:
            thread.start()

    async def classify(
        self,
        rows: Sequence[Row],
        conclude: Callable[[Outcome], T],
        *,
        key: str = "",
        bulk: bool = False,
        chunk: bool = False,
    ) -> T:
        """Return what `conclude`, which is called in one of the threads, makes of the rows' outcome.

        Calls of the same `key` share its turns, and those that are `bulk` give way to those that are not. With `chunk`
        a text that one forward cannot read is read in windows, up to MAX_CHUNKED_TOKENS. A row whose text cannot be
        read has the error in its place: ContextLengthExceeded where it is too long, InvalidRequest where there is
        nothing to read in it. Raises what Residents.stack does and Unavailable once the predictor is closed. When the
        caller stops waiting, what is left of the work is dropped.
        """
        if not rows:
            return conclude(Outcome([], 0.0, 0.0))
        if self._closed:
            raise Unavailable
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        call = _Call((self.residents, self._turns, self.threads), key, bulk, chunk, rows)

        def tell(settle: Callable[[], None]) -> None:
            if not future.done():  # its caller may have stopped waiting
                settle()

        def concluded(outcome: Outcome | BaseException) -> None:
            try:
                if isinstance(outcome, BaseException):
                    raise outcome
                settle = partial(future.set_result, conclude(outcome))
            except Exception as error:
                settle = partial(future.set_exception, error)
            except BaseException as panic:  # of a library written in Rust
                settle = partial(future.set_exception, RuntimeError(f"{type(panic).__name__} in a prediction"))
            loop.call_soon_threadsafe(tell, settle)
            if isinstance(outcome, Outcome):
                observability.observe_prediction(len(rows), outcome.waited, outcome.computed)

        call.conclude = concluded
        call.start()
        try:
            return await future
        finally:
            call.ended = True

    def close(self) -> None:
        """End the threads; pieces of work under way are finished first, and what waits is dropped."""
        self._closed = True
        self._turns.close()
        for thread in self._pool:
            thread.join()

    def _work(self) -> None:
        gate = threading.Lock()
        gate.acquire()
        while True:
            piece = self._turns.take(gate)
            if piece is None:
                return
            piece()
            del piece  # else the last one's models could not be let go while this waits
