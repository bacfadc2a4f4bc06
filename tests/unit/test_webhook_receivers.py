"""Shows that what is sent is what both kinds of receivers verify, and what becomes of those that misbehave.

Those that misbehave on the wire are real servers; the others are scripted transports.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime
from http.server import BaseHTTPRequestHandler

import msgspec
import openai
import pytest
import time_machine
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from reflexd.config import Network
from reflexd.egress.door import Door
from reflexd.egress.sender import Sender, signatures
from reflexd.scheduler.deliveries import Deliveries, DeliveryOptions
from reflexd.store.store import Store
from reflexd.store.webhooks import OVERLAP_SECONDS
from reflexd_plugins.webhook_http import OverHTTP
from tests.receivers import Received, answering, receiving
from tests.unit.delivering import JOB_EVENTS, Clock, Scripted, World, make_world
from tests.unit.test_store import add_job, claim, make_key, succeed

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(store: Store) -> World:
    return await make_world(store)


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
    for skew, taken in ((-301, False), (-300, True), (300, True), (301, False)):
        at = int(now) + skew
        skewed = {
            "webhook-id": event_id,
            "webhook-timestamp": str(at),
            "webhook-signature": signatures(event_id, at, body, second.in_force(now)),
        }
        with time_machine.travel(int(now), tick=False):  # both receivers read the clock
            assert verifies(first.secret, skewed, body) == verifies(second.secret, skewed, body) == [taken, taken]
    assert second.in_force(now + OVERLAP_SECONDS + 1) == [second.secret]
    third = await webhooks.rotate(tenant, keep_old=False)
    assert third.in_force(now) == [third.secret]


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
