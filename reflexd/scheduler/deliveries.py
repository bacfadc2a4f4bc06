"""Decides when each webhook is sent and sent again, and that a receiver which does not answer delays no other.

Sending comes before recording, so a crash in between sends once more: with the same id and body, which is how receivers
know it. A receiver (one tenant's deliveries to one server) has one under way at once until it has answered well, and
then a few. Those that fail fill at most half of the places together, and a quarter is kept for those that do well.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable
from email.utils import parsedate_to_datetime

import structlog
from msgspec import Struct

from reflexd import observability
from reflexd.egress.sender import Attempt, Sender
from reflexd.errors import StorageFull
from reflexd.store.signals import DELIVERIES
from reflexd.store.store import Store
from reflexd.store.webhooks import Delivery

MINUTE, HOUR = 60, 3600
PAUSES = (5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR)
"""Seconds between two attempts: ten in all over three days, as Standard Webhooks 1.0.0 proposes."""
JITTER = 0.1
"""A pause is up to this share longer, so that what failed together does not come back together."""
LONGEST_RETRY_AFTER = 24 * HOUR
AT_ONCE = 4
"""Deliveries under way to a receiver whose latest attempt went well; to any other there is one."""
LONGEST_WAIT = 60.0
MOST_KNOWN = 10_000
"""Receivers that are remembered as failing, and as answering well."""
GONE, TOO_MANY, SERVER_ERROR = 410, 429, 500

log = structlog.get_logger(__name__)


class DeliveryOptions(Struct, frozen=True):
    """How many deliveries are under way at once."""

    concurrent: int


class Deliveries:
    """Sends what is due; `run` goes on until it is cancelled."""

    def __init__(
        self, store: Store, sender: Sender, options: DeliveryOptions, clock: Callable[[], float] = time.time
    ) -> None:
        """`clock` gives unix seconds; tests turn it."""
        self._store = store
        self._sender = sender
        self._places = options.concurrent
        self._clock = clock
        self._under_way: dict[int, asyncio.Task[None]] = {}
        self._just_ended: set[int] = set()
        """Attempts that ended while the due ones were read, which may have been before that was recorded."""
        self._per_receiver: Counter[str] = Counter()
        self._good: set[str] = set()
        self._failing: dict[str, float] = {}
        """URLs whose latest attempt failed, and until when they asked to be left alone."""
        self._random = random.SystemRandom()

    async def run(self) -> None:
        """Send deliveries as they come due; those under way when it is cancelled are sent again after the restart."""
        try:
            with self._store.signals.listen(DELIVERIES) as woken:
                while True:
                    woken.clear()
                    wait = LONGEST_WAIT
                    try:
                        await self.start_due()
                        wait = await self._until_next()
                    except StorageFull:
                        wait = AT_ONCE
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(wait):
                            await woken.wait()
        finally:
            for task in self._under_way.values():
                task.cancel()
            await asyncio.gather(*self._under_way.values(), return_exceptions=True)

    async def start_due(self) -> None:
        """Begin every delivery that is due and has a place."""
        now = self._clock()
        self._just_ended.clear()
        blocked = {name for name, end in self._failing.items() if end > now}
        blocked |= {name for name, count in self._per_receiver.items() if count >= self._limit(name)}
        for delivery in await self._store.webhooks.due(now, 2 * AT_ONCE, sorted(blocked), sorted(self._good)):
            if len(self._under_way) >= self._places:
                return
            busy = delivery.seq in self._under_way or delivery.seq in self._just_ended
            if not busy and self._may_start(delivery.receiver, now):
                self._per_receiver[delivery.receiver] += 1
                self._under_way[delivery.seq] = asyncio.create_task(self._deliver(delivery))

    async def _until_next(self) -> float:
        """Return the seconds until something new can be due: a delivery, or a url that asked to be left alone."""
        now = self._clock()
        due = await self._store.webhooks.next_due(now)
        ends = [end for end in self._failing.values() if end > now]
        return max(0.0, min([now + LONGEST_WAIT, *ends, *([] if due is None else [due])]) - now)

    async def settle(self) -> None:
        """Wait for the deliveries that are under way."""
        await asyncio.gather(*self._under_way.values())

    def _limit(self, receiver: str) -> int:
        return AT_ONCE if receiver in self._good else 1

    def _may_start(self, receiver: str, now: float) -> bool:
        if self._per_receiver[receiver] >= self._limit(receiver) or self._failing.get(receiver, now) > now:
            return False
        if receiver in self._good:
            return True
        unproven = {name: count for name, count in self._per_receiver.items() if name not in self._good}
        failing = sum(count for name, count in unproven.items() if name in self._failing)
        new = receiver not in self._failing
        return sum(unproven.values()) < max(1, self._places * 3 // 4) and (new or failing < max(1, self._places // 2))

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            began = self._clock()
            secret = await self._store.webhooks.secret(delivery.tenant_id)
            attempt = await self._sender.send(
                delivery.url, delivery.event_id, delivery.body, secret.in_force(began), began
            )
            self._note(delivery.receiver, attempt)
            await self._record(delivery, attempt)
        except StorageFull:  # it stays pending, and is sent again
            log.warning("a webhook's outcome cannot be stored", delivery=delivery.id)
            self._failing[delivery.receiver] = self._clock() + PAUSES[0]
        except Exception as error:  # a fault of ours or of a plugin's must not be sent again at once, for ever
            log.error("webhook delivery failed", delivery=delivery.id, exc_info=error)
            self._failing[delivery.receiver] = self._clock() + MINUTE
        finally:
            del self._under_way[delivery.seq]
            self._just_ended.add(delivery.seq)
            self._per_receiver[delivery.receiver] -= 1
            if not self._per_receiver[delivery.receiver]:
                del self._per_receiver[delivery.receiver]
            self._store.signals.wake(DELIVERIES)

    def _note(self, receiver: str, attempt: Attempt) -> None:
        """Remember how the receiver does; what it thinks of one URL (a 404, say) is no word about the others."""
        works = attempt.status is not None and attempt.status < SERVER_ERROR and attempt.status != TOO_MANY
        self._failing.pop(receiver, None)
        self._good.discard(receiver)
        for known in (self._good, self._failing):
            if len(known) >= MOST_KNOWN:
                known.clear()  # they are found out again
        if works:
            self._good.add(receiver)
        else:
            self._failing[receiver] = self._clock() + retry_after(attempt.retry_after, self._clock())

    async def _record(self, delivery: Delivery, attempt: Attempt) -> None:
        said = attempt.error or (None if attempt.delivered else f"the receiver answered {attempt.status}")
        made = delivery.attempts + 1
        outcome = "delivered"
        if attempt.delivered:
            assert attempt.status is not None
            await self._store.webhooks.delivered(delivery, attempt.status)
        elif attempt.status == GONE:
            outcome = "failed"
            await self._store.webhooks.fail(delivery, GONE, said, "the receiver answered 410 Gone")
        elif made > len(PAUSES):
            outcome = "failed"
            await self._store.webhooks.fail(delivery, attempt.status, said)
        else:
            outcome = "postponed"
            now = self._clock()
            pause = PAUSES[made - 1] * (1 + JITTER * self._random.random())
            next_at = now + max(pause, retry_after(attempt.retry_after, now))
            await self._store.webhooks.postpone(delivery, next_at, attempt.status, said)
        observability.WEBHOOK_ATTEMPTS.labels(outcome).inc()
        if outcome != "delivered":
            log.info("webhook " + outcome, delivery=delivery.id, attempts=made, status=attempt.status, why=said)


def retry_after(header: str, now: float) -> float:
    """Return the seconds that a Retry-After header asks for, at most a day; 0 for none or one that cannot be read."""
    asked = 0.0
    if header.isascii() and header.strip().isdigit():
        asked = float(header.strip()[:9])
    elif header:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            asked = parsedate_to_datetime(header).timestamp() - now
    return min(max(0.0, asked), LONGEST_RETRY_AFTER)
