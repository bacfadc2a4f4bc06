"""Decides how unit tests send webhooks: a real outbox, a clock that is turned, and receivers that follow a script."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Mapping

from msgspec import Struct

from reflexd.config import Network
from reflexd.egress.door import Door
from reflexd.egress.sender import Sender
from reflexd.hookspecs import Post, Reply
from reflexd.scheduler.deliveries import Deliveries, DeliveryOptions
from reflexd.store.database import Transaction
from reflexd.store.keys import Key
from reflexd.store.outbox import enqueue
from reflexd.store.store import Store
from reflexd.store.webhooks import Delivery
from tests.unit.test_store import make_key

JOB_EVENTS = ["fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"]


class Clock:
    def __init__(self) -> None:
        self.now = time.time() + 1

    def __call__(self) -> float:
        return self.now


class Scripted:
    """A transport whose receivers answer from a script, 200 behind its end; a fake for waits of three days."""

    scheme = "fake"

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.script: dict[str, list[Reply | Exception]] = defaultdict(list)
        self.sent: list[tuple[str, float, bytes, Mapping[str, str]]] = []
        self.stuck = asyncio.Event()
        self.under_way: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    async def deliver(self, url: str, body: bytes, headers: Mapping[str, str], post: Post) -> Reply:
        self.sent.append((url, self.clock(), body, headers))
        self.under_way[url] += 1
        self.most[url] = max(self.most[url], self.under_way[url])
        try:
            if url.startswith("fake://dead"):
                await self.stuck.wait()
            await asyncio.sleep(0)
        finally:
            self.under_way[url] -= 1
        reply = self.script[url].pop(0) if self.script[url] else Reply(status=200)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def times(self, url: str) -> list[float]:
        return [at for where, at, _, _ in self.sent if where == url]


class World(Struct):
    store: Store
    key: Key
    clock: Clock
    transport: Scripted
    deliveries: Deliveries

    async def tell(self, url: str, count: int = 1) -> None:
        async def work(tx: Transaction) -> None:
            for number in range(count):
                data = {"id": f"ftjob-{number}", "object": "fine_tuning.job"}
                await enqueue(tx, self.key.tenant_id, "fine_tuning.job.succeeded", data, url)

        await self.store.database.write(work)

    async def step(self) -> None:
        await self.deliveries.start_due()
        await self.deliveries.settle()

    async def until_ended(self, url: str) -> Delivery:
        """Turn the clock from one due delivery to the next until the one to this url has ended."""
        while True:
            await self.step()
            (found,), _ = await self.store.webhooks.log(None, 1, None, url=url)
            if found.status != "pending":
                return found
            self.clock.now = max(self.clock.now, found.next_at)


async def make_world(store: Store) -> World:
    clock = Clock()
    transport = Scripted(clock)
    sender = Sender({"fake": transport}, Door(Network()), 30.0)
    deliveries = Deliveries(store, sender, DeliveryOptions(concurrent=16), clock)
    return World(store, await make_key(store, "k"), clock, transport, deliveries)
