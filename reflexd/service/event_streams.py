"""Decides how a job's events are followed live: from any event on, in order, until the job has ended.

A stream ends by itself when its job has ended, was deleted, its key was revoked, or the daemon stops; in the last case
without a word, so that the client comes back and goes on after the last event it has seen.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator

from msgspec import Struct

from reflexd.errors import AuthenticationFailed, JobNotFound, RateLimited, ReflexError
from reflexd.store.keys import Key
from reflexd.store.records import ACTIVE, Event
from reflexd.store.signals import STOPPING, job_topic, key_topic
from reflexd.store.store import Store

PAGE = 100
KEEP_ALIVE_SECONDS = 15.0


class Silence(Struct, frozen=True):
    """Nothing has happened for a while; the connection must be kept open all the same."""


class End(Struct, frozen=True):
    """The job has ended and all of its events are out."""


class StreamLimits(Struct, frozen=True, kw_only=True):
    """How many streams may be open at once, in all and for one key."""

    open: int
    open_per_key: int


class EventStreams:
    """The open streams of events."""

    def __init__(self, store: Store, limits: StreamLimits, keep_alive_seconds: float = KEEP_ALIVE_SECONDS) -> None:
        self._store = store
        self._limits = limits
        self._keep_alive = keep_alive_seconds
        self._open: Counter[str] = Counter()
        self._stopping = False

    def stop(self) -> None:
        """End every stream, and every later one as soon as it has told what there is to tell."""
        self._stopping = True
        self._store.signals.wake(STOPPING)

    def check_place(self, key: Key) -> None:
        """Raise RateLimited where one more stream would be too many.

        The place is taken when the answer begins: streams that are asked for in the same moment may be some too many.
        """
        if self._open.total() >= self._limits.open:
            raise RateLimited("The daemon has as many event streams open as it holds: poll the list of events instead")
        if self._open[key.id] >= self._limits.open_per_key:
            raise RateLimited(f"This API key has {self._limits.open_per_key} event streams open already")

    async def follow(
        self, key: Key, job_id: str, after: int
    ) -> AsyncGenerator[Event | ReflexError | Silence | End, None]:
        """Yield the job's events with a larger number than `after` as they come, Silence between, End at the end.

        Instead of End comes an error where the stream may not go on: JobNotFound, AuthenticationFailed.
        """
        self._open[key.id] += 1
        try:
            with self._store.signals.listen(job_topic(job_id), key_topic(key.id), STOPPING) as changed:
                while True:
                    changed.clear()
                    if not self._store.keys.is_valid(key.id):
                        yield AuthenticationFailed()
                        return
                    # The status first: an end that is read afterwards has its event among those read here.
                    job = await self._store.jobs.get(job_id, key.tenant_id)
                    more = True
                    while more:
                        events, more = await self._store.events.page(job_id, PAGE, after)
                        for event in events:
                            after = event.n
                            yield event
                    if job is None:
                        yield JobNotFound()
                        return
                    if job.status not in ACTIVE:
                        yield End()
                        return
                    if self._stopping:
                        return
                    try:
                        await asyncio.wait_for(changed.wait(), self._keep_alive)
                    except TimeoutError:
                        yield Silence()
        finally:
            self._open[key.id] -= 1
            if not self._open[key.id]:
                del self._open[key.id]
