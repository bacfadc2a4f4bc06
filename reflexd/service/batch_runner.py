"""Decides whose batch is worked on next: API keys take turns, and so do the batches of each that came first.

Nobody waits for a batch, so its rows take the predictor's bulk lane and give way to every request. What stands in the
way and may pass (a full disk) makes all batches wait a little; what fails one batch fails no other, nor the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict

import structlog

from reflexd import observability
from reflexd.errors import ReflexError
from reflexd.service.batch_work import UNAVAILABLE, BatchWork, Workplace
from reflexd.store.batches import BatchError
from reflexd.store.signals import BATCHES

WORKERS = 2
"""Batches that are worked on at once: while one writes its answers down, another has the predictor."""
TURNS_OF_KEY = 8
"""Batches of one key that take turns; the others begin when one of these has ended. Each holds two files open."""
PAUSE_SECONDS = 5.0
LOOK_EVERY_SECONDS = 15.0

log = structlog.get_logger(__name__)


class BatchRunner:
    """Works on all batches that have not ended, until it is stopped."""

    def __init__(self, place: Workplace, pause_seconds: float = PAUSE_SECONDS) -> None:
        self._place = place
        self._pause_seconds = pause_seconds
        self._waiting: OrderedDict[str, list[str]] = OrderedDict()
        """The batches of each key that nobody works on at the moment, in the order of their turns."""
        self._known: set[str] = set()
        self._open: dict[str, BatchWork] = {}
        self._given_up: set[str] = set()
        """What could not even be failed; the next start tries again."""
        self._stopping = asyncio.Event()
        observability.BATCHES_UNFINISHED.set_function(lambda: len(self._known))

    async def run(self) -> None:
        """Work until `stop` is called; returns after the steps under way."""
        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(WORKERS):
                    workers.create_task(self._work())
        finally:
            for work in self._open.values():
                work.close()
            self._open.clear()

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopping.set()
        self._place.store.signals.wake(BATCHES)

    async def _work(self) -> None:
        with self._place.store.signals.listen(BATCHES) as woken:
            woken.set()
            while not self._stopping.is_set():
                if woken.is_set():
                    woken.clear()
                    await self._look()
                if (taken := self._take()) is not None:
                    await self._take_turn(*taken)
                    continue
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), LOOK_EVERY_SECONDS)
                woken.set()  # were it only time that has passed

    async def _look(self) -> None:
        """Let new batches take turns, and let those that are to end do so at once."""
        try:
            unfinished = await self._place.store.batches.unfinished()
        except Exception as error:
            await self._pause(error)
            return
        now = self._place.clock()
        for found in unfinished:
            turns = self._waiting.get(found.key_id, [])
            if found.id not in self._known and found.id not in self._given_up:
                self._known.add(found.id)
                turns = self._waiting.setdefault(found.key_id, turns)
                turns.append(found.id)
            if (found.status == "cancelling" or found.expires_at <= now) and found.id in turns:
                turns.remove(found.id)
                turns.insert(0, found.id)

    def _take(self) -> tuple[str, str] | None:
        """Return the key and the batch whose turn it is; None where all are worked on or none is left."""
        if not self._waiting:
            return None
        key_id, turns = self._waiting.popitem(last=False)
        batch_id = turns.pop(0)
        if turns:
            self._waiting[key_id] = turns
        return key_id, batch_id

    def _put_back(self, key_id: str, batch_id: str) -> None:
        turns = self._waiting.setdefault(key_id, [])
        turns.insert(min(len(turns), TURNS_OF_KEY - 1), batch_id)

    async def _take_turn(self, key_id: str, batch_id: str) -> None:
        """Do a step of a batch, and let it wait for its next turn unless it has ended."""
        ended = False
        try:
            ended = await self._step(batch_id)
        except (OSError, ReflexError) as error:
            # Reopened, its files say what is done; after a write that failed nobody knows it.
            self._close(batch_id)
            if isinstance(error, FileNotFoundError) or (isinstance(error, ReflexError) and error.status != UNAVAILABLE):
                ended = await self._fail(batch_id, error)
            else:
                await self._pause(error)
        except Exception as error:
            ended = await self._fail(batch_id, error)
        if ended:
            self._close(batch_id)
            self._known.discard(batch_id)
        else:
            self._put_back(key_id, batch_id)

    async def _step(self, batch_id: str) -> bool:
        work = await self._opened(batch_id)
        return True if work is None else await work.step()

    async def _opened(self, batch_id: str) -> BatchWork | None:
        """Return the work on a batch; None where that has ended, or is gone."""
        if (work := self._open.get(batch_id)) is None:
            batch = await self._place.store.batches.get(batch_id)
            if batch is None or batch.finished_at is not None:
                return None
            work = self._open[batch_id] = await BatchWork.open(self._place, batch)
        return work

    async def _fail(self, batch_id: str, error: Exception) -> bool:
        """End a batch that cannot go on because of a fault that is not its own; what is done stays, if it can."""
        log.error("batch failed", batch=batch_id, exc_info=error)
        told = BatchError("internal_error", "The daemon could not go on with this batch; its log says why")
        self._close(batch_id)  # reopened, its files say what is done
        try:
            if (work := await self._opened(batch_id)) is not None:
                await work.fail(told)
            return True
        except Exception as second:
            log.error("batch fails without the files of its answers", batch=batch_id, exc_info=second)
        try:
            await self._place.tidy(await self._place.store.batches.end(batch_id, "failed", errors=[told]))
        except Exception as third:
            log.error("batch given up until the next start", batch=batch_id, exc_info=third)
            self._given_up.add(batch_id)
        return True

    def _close(self, batch_id: str) -> None:
        if (work := self._open.pop(batch_id, None)) is not None:
            work.close()

    async def _pause(self, error: Exception) -> None:
        log.warning("batches wait", seconds=self._pause_seconds, exc_info=error)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), self._pause_seconds)
