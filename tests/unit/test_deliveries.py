"""Shows when webhooks are sent again, and that a dead receiver holds up nobody. The clock is turned.

The receivers are scripted transports: nobody waits three days.
"""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from reflexd.hookspecs import Reply
from reflexd.scheduler.deliveries import HOUR, MINUTE, PAUSES, retry_after
from reflexd.store.store import Store
from tests.unit.delivering import JOB_EVENTS, World, make_world

pytestmark = pytest.mark.anyio


@pytest.fixture
async def world(store: Store) -> World:
    return await make_world(store)


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


async def test_a_backlog_that_may_not_be_sent_hides_nobody(world: World) -> None:
    """64 receivers ask to be left alone for a day, each with more waiting than is looked at of one."""
    for number in range(64):
        url = f"fake://busy-{number}/"
        world.transport.script[url] = [Reply(status=429, retry_after="86400")]
        await world.tell(url, 12)
    for _ in range(8):
        await world.step()
    assert len(world.transport.sent) == 64
    await world.tell("fake://live/")
    await world.step()
    assert len(world.transport.times("fake://live/")) == 1


async def test_a_server_is_one_receiver_whatever_the_path(world: World) -> None:
    for number in range(40):
        await world.tell(f"fake://dead/{number}")
    await world.deliveries.start_due()
    await asyncio.sleep(0.05)
    assert sum(world.transport.under_way.values()) == 1
    world.transport.stuck.set()
    await world.deliveries.settle()


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
