"""Shows when webhooks are sent again, and that they are what both kinds of receivers verify. The clock is turned.

The receivers of a schedule of three days are scripted transports; those that misbehave on the wire are real servers.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler

import msgspec
import openai
import pytest
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from reflexd.config import Network
from reflexd.egress.door import Door
from reflexd.egress.sender import Sender, signatures
from reflexd.hookspecs import Post, Reply
from reflexd.scheduler.deliveries import HOUR, MINUTE, PAUSES, Deliveries, DeliveryOptions, retry_after
from reflexd.store.database import Transaction
from reflexd.store.keys import Key
from reflexd.store.outbox import enqueue
from reflexd.store.store import Store
from reflexd.store.webhooks import OVERLAP_SECONDS, Delivery
from reflexd_plugins.webhook_http import OverHTTP
from tests.receivers import Received, answering, receiving
from tests.unit.test_store import add_job, claim, make_key, succeed

pytestmark = pytest.mark.anyio
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


class World(msgspec.Struct):
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


@pytest.fixture
async def world(store: Store) -> World:
    clock = Clock()
    transport = Scripted(clock)
    sender = Sender({"fake": transport}, Door(Network()), 30.0)
    deliveries = Deliveries(store, sender, DeliveryOptions(concurrent=16), clock)
    return World(store, await make_key(store, "k"), clock, transport, deliveries)


# --- the schedule ---------------------------------------------------------------------------------------------------


async def test_ten_attempts_over_three_days_with_one_id_and_fresh_times(world: World) -> None:
    url = "fake://down/"
    world.transport.script[url] = [Reply(status=500)] * 20
    await world.tell(url)
    ended = await world.until_ended(url)
    assert (ended.status, ended.attempts, ended.last_status) == ("failed", 10, 500)
    times = world.transport.times(url)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    wanted = [5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR]
    assert list(PAUSES) == wanted
    assert len(pauses) == len(wanted)
    assert all(want <= pause <= 1.1 * want + 0.01 for want, pause in zip(wanted, pauses, strict=True))
    assert len({pause / want for want, pause in zip(wanted, pauses, strict=True)}) > 5, "there is no jitter"
    assert len({(body, headers["webhook-id"]) for _, _, body, headers in world.transport.sent}) == 1
    assert [int(headers["webhook-timestamp"]) for _, _, _, headers in world.transport.sent] == [int(at) for at in times]


@pytest.mark.parametrize(
    "failure",
    [
        Reply(status=500),
        Reply(status=404),
        Reply(status=301),
        Reply(status=304),
        Reply(status=199),
        Reply(status=429),
        ConnectionError("x"),
        TimeoutError(),
    ],
    ids=str,
)
async def test_only_2xx_ends_it(world: World, failure: Reply | Exception) -> None:
    world.transport.script["fake://a/"] = [failure, Reply(status=204)]
    await world.tell("fake://a/")
    ended = await world.until_ended("fake://a/")
    assert (ended.status, ended.attempts, ended.last_status) == ("delivered", 2, 204)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_retry_after_puts_off_all_that_goes_to_the_receiver(world: World, status: int) -> None:
    url = "fake://busy/"
    world.transport.script[url] = [Reply(status=status, retry_after="900")]
    await world.tell(url)
    await world.step()
    began = world.clock.now
    await world.tell(url)  # another event, due at once
    world.clock.now = began + 899
    await world.step()
    assert len(world.transport.sent) == 1
    for _ in range(2):  # one at a time, until it has answered well again
        world.clock.now = began + 1000
        await world.step()
    assert len(world.transport.sent) == 3
    assert all(at >= began + 900 for at in world.transport.times(url)[1:])


async def test_gone_ends_it_and_the_endpoint(world: World) -> None:
    url, webhooks = "fake://gone/", world.store.webhooks
    endpoint = await webhooks.create(world.key.tenant_id, "n", url, JOB_EVENTS, 5)
    await world.tell(url, 3)
    world.transport.script[url] = [Reply(status=410)]
    await world.deliveries.start_due()
    await world.deliveries.settle()
    found, _ = await webhooks.log(None, 10)
    assert "pending" not in {one.status for one in found}  # those that were still to come are given up
    assert 410 in [one.last_status for one in found]
    after = await webhooks.get(endpoint.id)
    assert after is not None
    assert "410" in (after.disabled_reason or "")
    await world.tell("fake://other/")  # the endpoint is told no more, the job's own url is
    newest, _ = await webhooks.log(None, 1)
    assert newest[0].url == "fake://other/"
    again = await webhooks.update(after)
    assert again is not None
    assert again.disabled_reason is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("", 0), ("7", 7), (" 7 ", 7), ("-7", 0), ("x", 0), ("1.5", 0), ("99999999999999", 24 * HOUR), ("٣", 0)],
)
def test_retry_after_in_seconds(header: str, seconds: float) -> None:
    assert retry_after(header, 1000.0) == seconds


def test_retry_after_as_a_date() -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    assert retry_after(format_datetime(now + timedelta(seconds=90)), now.timestamp()) == 90
    assert retry_after(format_datetime(now - timedelta(seconds=90)), now.timestamp()) == 0


# --- one receiver and the others ------------------------------------------------------------------------------------


async def test_dead_receivers_hold_up_nobody_else(world: World) -> None:
    """A hundred deliveries to each of nine that never answer, older than all others; 16 places."""
    dead = [f"fake://dead-{number}/" for number in range(9)]
    for url in dead:
        await world.tell(url, 100)
    await world.deliveries.start_due()
    await asyncio.sleep(0.05)
    assert sum(world.transport.under_way.values()) == len(dead)
    # Their first attempts run into the limit of time, here by hand; from then on they have half of the places.
    for url in dead:
        world.transport.script[url] = [TimeoutError()] * 1000
    world.transport.stuck.set()
    await world.deliveries.settle()
    world.transport.stuck.clear()
    live = [f"fake://live-{number}/" for number in range(99)]
    for url in live:
        await world.tell(url, 3)
    for _ in range(200):
        await world.deliveries.start_due()
        await asyncio.sleep(0.01)
        if sum(len(world.transport.times(url)) for url in live) == 3 * len(live):
            break
    assert [len(world.transport.times(url)) for url in live] == [3] * len(live)
    assert sum(world.transport.under_way[url] for url in dead) == 8
    assert max(world.transport.most[url] for url in dead) == 1
    assert max(world.transport.most.values()) <= 4
    world.transport.stuck.set()
    await world.deliveries.settle()


# --- what is sent ---------------------------------------------------------------------------------------------------


async def test_the_end_of_a_job_is_told_in_its_own_transaction(world: World) -> None:
    store, tenant = world.store, world.key.tenant_id
    await store.webhooks.create(tenant, "all", "fake://all/", JOB_EVENTS, 5)
    await store.webhooks.create(tenant, "failures", "fake://failures/", JOB_EVENTS[1:2], 5)
    other = await make_key(store, "other")
    await store.webhooks.create(other.tenant_id, "others", "fake://others/", JOB_EVENTS, 5)
    await add_job(store, world.key, "name")
    job = await claim(store)
    await succeed(store, job, "dir")
    await add_job(store, world.key)
    failed = await claim(store)
    await store.jobs.fail(failed, "code", "why", "param")
    cancelled = await add_job(store, world.key)
    await store.jobs.cancel(cancelled.id)
    assert await store.jobs.cancel(cancelled.id) is None
    found, _ = await store.webhooks.log(None, 10)
    told = [(one.url, one.event_type, one.object_id) for one in reversed(found)]
    assert sorted(told) == sorted(
        [
            ("fake://all/", "fine_tuning.job.succeeded", job.id),
            ("fake://all/", "fine_tuning.job.failed", failed.id),
            ("fake://failures/", "fine_tuning.job.failed", failed.id),
            ("fake://all/", "fine_tuning.job.cancelled", cancelled.id),
        ]
    )
    bodies = {one.object_id: msgspec.json.decode(one.body) for one in found}
    event = bodies[job.id]
    assert event["object"] == "event"
    assert datetime.fromisoformat(event["timestamp"]).timestamp() == pytest.approx(event["created_at"], abs=1)
    assert event["data"] == {
        "id": job.id,
        "object": "fine_tuning.job",
        "status": "succeeded",
        "fine_tuned_model": "name",
        "suffix": "name",
        "labels": ["a", "b"],
        "result": {"accuracy": 0.5},
        "error": None,
    }
    assert bodies[failed.id]["data"]["error"] == {"code": "code", "message": "why", "param": "param"}
    # Of one event each receiver gets the same id, so that one that is told twice can know.
    assert len({one.event_id for one in found if one.object_id == failed.id}) == 1


async def test_one_url_is_told_once_however_often_it_is_named(world: World) -> None:
    for name in ("a", "b"):
        await world.store.webhooks.create(world.key.tenant_id, name, "fake://same/", JOB_EVENTS, 5)
    await world.tell("fake://same/")
    assert len((await world.store.webhooks.log(None, 10))[0]) == 1


def verifies(secret: str, headers: Mapping[str, str], body: bytes) -> list[bool]:
    """Return whether the package of Standard Webhooks and the OpenAI SDK take a delivery."""
    out = []
    try:
        Webhook(secret).verify(body, dict(headers))
        out.append(True)
    except WebhookVerificationError:
        out.append(False)
    try:
        event = openai.OpenAI(api_key="x").webhooks.unwrap(body.decode(), dict(headers), secret=secret)
        assert event.type == "fine_tuning.job.succeeded"
        out.append(True)
    except openai.InvalidWebhookSignatureError:
        out.append(False)
    return out


async def test_both_libraries_verify_it_within_five_minutes_and_through_a_rotation(world: World) -> None:
    url, webhooks, tenant = "fake://a/", world.store.webhooks, world.key.tenant_id
    first = await webhooks.secret(tenant)
    assert await webhooks.secret(tenant) == first
    await world.tell(url)
    await world.step()
    _, _, body, headers = world.transport.sent[-1]
    assert verifies(first.secret, headers, body) == [True, True]
    assert verifies(first.secret, headers, body + b" ") == [False, False]
    second = await webhooks.rotate(tenant, keep_old=True)
    assert second.secret != first.secret
    await world.tell(url)
    await world.step()
    _, _, body, headers = world.transport.sent[-1]
    assert headers["webhook-signature"].count("v1,") == 2
    assert verifies(first.secret, headers, body) == verifies(second.secret, headers, body) == [True, True]
    event_id, now = headers["webhook-id"], time.time()
    for skew, taken in ((-301, False), (-298, True), (298, True), (301, False)):
        at = int(now + skew)
        skewed = {
            "webhook-id": event_id,
            "webhook-timestamp": str(at),
            "webhook-signature": signatures(event_id, at, body, second.in_force(now)),
        }
        assert verifies(first.secret, skewed, body) == verifies(second.secret, skewed, body) == [taken, taken]
    assert second.in_force(now + OVERLAP_SECONDS + 1) == [second.secret]
    third = await webhooks.rotate(tenant, keep_old=False)
    assert third.in_force(now) == [third.secret]


async def test_an_outcome_counts_once(world: World) -> None:
    """A delivery that was replayed while an attempt of before was under way is not ended by that attempt."""
    await world.tell("fake://a/")
    (first,), _ = await world.store.webhooks.log(None, 1)
    await world.store.webhooks.postpone(first, world.clock(), 500, "x")
    await world.store.webhooks.delivered(first, 200)  # of the same attempt: it was counted already
    (now,), _ = await world.store.webhooks.log(None, 1)
    assert (now.status, now.attempts) == ("pending", 1)
    await world.store.webhooks.delivered(now, 200)
    (ended,), _ = await world.store.webhooks.log(None, 1)
    assert (ended.status, ended.attempts) == ("delivered", 2)
    replayed = await world.store.webhooks.replay(ended)
    assert replayed is not None
    assert (replayed.status, replayed.attempts, replayed.event_id, replayed.body) == (
        "pending",
        0,
        first.event_id,
        first.body,
    )


async def test_the_log_is_forgotten_when_it_is_old_and_only_then(world: World) -> None:
    for url in ("fake://a/", "fake://b/"):
        await world.tell(url)
    ended = await world.until_ended("fake://a/")
    world.transport.script["fake://b/"] = [Reply(status=500)]
    await world.store.webhooks.forget_old(1)
    assert len((await world.store.webhooks.log(None, 10))[0]) == 2
    await world.store.database.write(
        lambda tx: tx.run("UPDATE deliveries SET finished_at = finished_at - 90000 WHERE id = ?", (ended.id,))
    )
    await world.store.webhooks.forget_old(1)
    assert [one.url for one in (await world.store.webhooks.log(None, 10))[0]] == ["fake://b/"]


# --- on the wire ----------------------------------------------------------------------------------------------------


async def test_receivers_that_misbehave_fail_in_time_and_the_rest_is_delivered(store: Store) -> None:
    """Real servers: they hang, reset, drip, answer nonsense, redirect inside; each is postponed, with a word of why."""
    key, clock = await make_key(store, "k"), Clock()
    sender = Sender({"http": OverHTTP("http")}, Door(Network(allow=["127.0.0.1"])), 1.0)
    world = World(store, key, clock, Scripted(clock), Deliveries(store, sender, DeliveryOptions(16), clock))

    def hang(handler: BaseHTTPRequestHandler, _: Received) -> None:
        time.sleep(3)

    def reset(handler: BaseHTTPRequestHandler, _: Received) -> None:
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.close_connection = True

    def drip_headers(handler: BaseHTTPRequestHandler, _: Received) -> None:
        for letter in b"HTTP/1.1 200 OK\r\n":
            handler.wfile.write(bytes([letter]))
            time.sleep(0.3)

    def drip_body(handler: BaseHTTPRequestHandler, _: Received) -> None:
        handler.send_response(200)
        handler.send_header("content-length", "1000")
        handler.end_headers()
        for _ in range(20):
            handler.wfile.write(b"x")
            time.sleep(0.2)

    def nonsense(handler: BaseHTTPRequestHandler, _: Received) -> None:
        handler.wfile.write(b"\x00\x01nonsense\r\n\r\n")
        handler.close_connection = True

    wanted = {
        hang: ("pending", None, "no answer within 1 seconds"),
        reset: ("pending", None, "unreachable: it does not answer as HTTP"),
        drip_headers: ("pending", None, "no answer within 1 seconds"),
        nonsense: ("pending", None, "unreachable: it does not answer as HTTP"),
        drip_body: ("delivered", 200, None),
        answering(302, location="http://169.254.169.254/"): ("pending", 302, "the receiver answered 302"),
        answering(410): ("failed", 410, "the receiver answered 410"),
        answering(200): ("delivered", 200, None),
    }
    with ExitStack() as stack:
        urls = {}
        for answer in wanted:
            receiver = stack.enter_context(receiving())
            receiver.answer = answer
            urls[receiver.url] = answer
            await world.tell(receiver.url)
        nobody = "http://127.0.0.1:9/"
        await world.tell(nobody)
        await world.step()
        for one in (await store.webhooks.log(None, 100))[0]:
            if one.url == nobody:
                assert (one.status, one.last_error) == ("pending", "unreachable: it cannot be connected to")
            else:
                assert (one.status, one.last_status, one.last_error) == wanted[urls[one.url]]
                assert one.attempts == 1
