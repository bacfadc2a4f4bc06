"""Decides how a committed change wakes whoever waits for it, so that nobody has to poll the database."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

QUEUED = "queued"
"""Topic: a job may have become claimable."""


DELIVERIES = "deliveries"
"""Topic: a webhook may be due."""

BATCHES = "batches"
"""Topic: a batch may be to be worked on."""

STOPPING = "stopping"
"""Topic: the daemon stops; what is open must come to its end."""


def key_topic(key_id: str) -> str:
    """Return the topic that is woken when this API key is revoked."""
    return f"key:{key_id}"


def job_topic(job_id: str) -> str:
    """Return the topic that is woken by every change of this job, its events and its deletion included."""
    return f"job:{job_id}"


class Signals:
    """Topics with waiting events; all in the daemon's one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)

    def wake(self, *topics: str) -> None:
        """Set the event of everyone who listens to one of the topics."""
        for topic in topics:
            for event in self._waiting.get(topic, ()):
                event.set()

    @contextmanager
    def listen(self, *topics: str) -> Iterator[asyncio.Event]:
        """Yield an event that is set at each wake of a topic; the listener clears it before it looks at the store."""
        event = asyncio.Event()
        for topic in topics:
            self._waiting[topic].add(event)
        try:
            yield event
        finally:
            for topic in topics:
                self._waiting[topic].discard(event)
                if not self._waiting[topic]:
                    del self._waiting[topic]
