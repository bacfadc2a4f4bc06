"""Shows pausing, fencing, repeats, deletions, names and filters in the store itself, where every order can be tried."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from reflexd.errors import IdempotencyKeyReused
from reflexd.store import deletions
from reflexd.store.database import migrations, statements
from reflexd.store.identifiers import new_id
from reflexd.store.models import OURS, ModelVersion
from reflexd.store.records import Job
from reflexd.store.signals import key_topic
from reflexd.store.store import DATABASE, Store
from tests.unit.test_store import add_job, claim, make_key, messages, succeed

pytestmark = pytest.mark.anyio


def variant(job: Job, **change: Any) -> Job:
    """Return a new job that differs from a stored one in its id and in what is given."""
    return msgspec.structs.replace(job, seq=0, id=new_id("ftjob-"), **change)


async def test_a_paused_job_is_not_claimed_until_it_is_resumed(store: Store) -> None:
    key = await make_key(store, "k")
    job, other = await add_job(store, key), await add_job(store, key)
    paused = await store.jobs.pause(job.id)
    assert paused is not None
    assert (paused.status, paused.paused) == ("queued", True)
    assert await store.jobs.pause(job.id) is None
    assert (await claim(store)).id == other.id
    assert await store.jobs.claim(99) is None
    assert await store.jobs.resume(job.id) is not None
    assert await store.jobs.resume(job.id) is None
    assert (await claim(store)).id == job.id
    assert await messages(store, job) == ["Job queued", "Job paused", "Job resumed", "Job running"]


async def test_the_outcome_of_a_paused_run_does_not_count(store: Store) -> None:
    await add_job(store, await make_key(store, "k"), "n")
    job = await claim(store)
    await store.jobs.pause(job.id)
    assert await succeed(store, job, "d") is None
    assert await store.jobs.fail(job, "c", "m") is None
    assert await store.jobs.prepared(job, ["a"], "single_label", 1) is None
    await store.jobs.add_event(job, "too late")
    assert store.models.ids() == set()
    aside = await store.jobs.put_aside(job)
    assert aside is not None
    assert (aside.status, aside.paused, aside.attempts, aside.interrupted) == ("queued", True, 0, 0)
    assert "too late" not in await messages(store, job)


async def test_a_run_that_was_given_up_cannot_speak_for_the_next_one(store: Store) -> None:
    await add_job(store, await make_key(store, "k"), "n")
    first = await claim(store)
    await store.jobs.requeue(first, "given up", died=False)
    second = await claim(store)
    assert (first.id, first.claims, second.claims) == (second.id, 1, 2)
    assert await succeed(store, first, "d1") is None
    assert await store.jobs.fail(first, "c", "m") is None
    assert await store.jobs.requeue(first, "again", died=True) is None
    assert await store.jobs.put_aside(first) is None
    await store.jobs.add_event(first, "late")
    assert "late" not in await messages(store, second)
    assert await succeed(store, second, "d2") == 1


async def test_pause_and_success_at_once_have_one_winner(store: Store) -> None:
    key, winners = await make_key(store, "k"), set()
    for number in range(40):
        await add_job(store, key)
        job = await claim(store)
        both = [succeed(store, job, f"d{number}"), store.jobs.pause(job.id)]
        outcomes = await asyncio.gather(*(both if number % 2 else both[::-1]))  # the first to ask writes first
        won, paused = outcomes if number % 2 else outcomes[::-1]
        assert (won is None) != (paused is None)
        winners.add("success" if won else "pause")
        await store.jobs.cancel(job.id)
    assert winners == {"success", "pause"}


async def test_a_terminal_job_is_never_paused_and_a_cancelled_one_not_any_more(store: Store) -> None:
    job = await add_job(store, await make_key(store, "k"))
    await store.jobs.pause(job.id)
    cancelled = await store.jobs.cancel(job.id)
    assert cancelled is not None
    assert (cancelled.status, cancelled.paused) == ("cancelled", False)
    assert await store.jobs.pause(job.id) is None
    assert await store.jobs.resume(job.id) is None


async def test_a_restart_queues_a_paused_run_again_and_it_stays_paused(tmp_path: Path) -> None:
    store = await Store.open(tmp_path)
    await add_job(store, await make_key(store, "k"))
    job = await claim(store)
    await store.jobs.pause(job.id)
    await store.close()
    store = await Store.open(tmp_path)
    try:
        (back,) = await store.jobs.recover()
        assert (back.status, back.paused) == ("queued", True)
        assert await store.jobs.claim(99) is None
    finally:
        await store.close()


async def test_a_repeat_is_found_in_its_time_and_for_its_key_only(store: Store) -> None:
    key, other = await make_key(store, "k"), await make_key(store, "k2", "k")
    now = int(time.time())
    made = await store.jobs.insert(variant(await add_job(store, key), body_sha256="b" * 64), 99)
    assert made is not None

    async def again(retried: bool = True, **change: Any) -> bool:
        new = variant(made, **change)
        found = await store.jobs.earlier(new, retried)
        assert found is None or found.id == made.id
        inserted = await store.jobs.insert(new, 99, retried=retried)
        assert inserted is not None
        assert (inserted.id == made.id) == (found is not None)
        if inserted.id != made.id:
            await store.deletions.delete_job(key.tenant_id, inserted.id)
        return found is not None

    assert await again()
    assert not await again(retried=False)
    assert not await again(body_sha256="c" * 64)
    assert not await again(key_id=other.id)
    assert await again(created_at=now + 590)
    assert not await again(created_at=now + 610)
    await store.jobs.cancel(made.id)
    assert not await again(), "a retry asks for a job, and not for one that was cancelled since"


async def test_an_idempotency_key_stands_for_a_day_and_for_one_body(store: Store) -> None:
    key = await make_key(store, "k")
    made = await store.jobs.insert(variant(await add_job(store, key), body_sha256="b", idempotency_key="i"), 99)
    assert made is not None
    for change, found in (({}, True), ({"created_at": made.created_at + 86_300}, True)):
        stored = await store.jobs.insert(variant(made, **change), 99)
        assert stored is not None
        assert (stored.id == made.id) is found
    with pytest.raises(IdempotencyKeyReused):
        await store.jobs.insert(variant(made, body_sha256="c"), 99)
    late = await store.jobs.insert(variant(made, body_sha256="c", created_at=made.created_at + 86_500), 99)
    assert late is not None
    assert late.id != made.id


async def test_metadata_restricts_a_page_and_pages_go_on(store: Store) -> None:
    key = await make_key(store, "k")
    plain = await add_job(store, key)
    made = {}
    odd = {"a.b": "1", '"': "2", "": "3", "ä": "%"}
    for name, metadata in (("none", None), ("odd", odd), ("both", {"k": "v", "l": "w"}), ("empty", {})):
        stored = await store.jobs.insert(variant(plain, metadata=metadata), 99)
        assert stored is not None
        made[name] = stored.id

    async def found(limit: int = 9, before: int | None = None, bare: bool = False, **pairs: str) -> list[str]:
        page, _ = await store.jobs.page(key.tenant_id, limit, before, pairs, bare=bare)
        return [job.id for job in page]

    assert await found(k="v") == [made["both"], plain.id]
    assert await found(k="v", l="w") == [made["both"]]
    assert await found(k="V") == []
    for pair in odd.items():
        assert await found(**dict([pair])) == [made["odd"]]
    assert await found(bare=True) == [made["none"]]
    first, more = await store.jobs.page(key.tenant_id, 1, None, {"k": "v"})
    assert more
    assert await found(before=first[0].seq, k="v") == [plain.id]


async def test_tombstones_count_once_for_the_other_route_and_are_forgotten(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await make_key(store, "k")
    await add_job(store, key, "n")
    job = await claim(store)
    await succeed(store, job, "d")

    async def counts(name: str, route: deletions.DeletedAs, retried: bool = False, tenant: str = key.tenant_id) -> bool:
        return await store.deletions.counts(tenant, name, route, retried=retried)

    assert not await counts("n", "model", retried=True)
    assert await store.deletions.delete_job(key.tenant_id, job.id) == ["d"]
    for name in ("n", job.id):
        assert not await counts(name, "model", tenant="org-other")
        assert not await counts(name, "job")
        assert await counts(name, "job", retried=True)
        assert await counts(name, "model")
        assert not await counts(name, "model"), "the second time by one route"
        assert await counts(name, "model", retried=True)
    assert await store.deletions.place(key.tenant_id, job.id) == job.seq
    assert await store.deletions.place("org-other", job.id) is None
    assert await store.deletions.place(key.tenant_id, "n") is None
    await store.deletions.forget_old()
    assert await counts("n", "model", retried=True)
    monkeypatch.setattr(deletions, "REMEMBERED_SECONDS", -1)
    await store.deletions.forget_old()
    assert not await counts("n", "model", retried=True)


async def test_names_are_resolved_own_first_then_by_version_then_defaults(store: Store) -> None:
    key, other = await make_key(store, "k"), await make_key(store, "o")
    default = ModelVersion(
        id="default", tenant_id=OURS, name="guardrail", version=1, job_id="", labels=["a"], mode="single_label",
        backbone="x", precision="int8", result=None, created_at=0,
    )  # fmt: skip
    store.models.add_default(default, ["alias"])

    def means(name: str, tenant: str = key.tenant_id) -> str | None:
        found = store.models.resolve(tenant, name)
        return found.id if found else None

    assert [means(n) for n in ("guardrail", "alias", "guardrail@1", "alias@1")] == ["default"] * 4
    assert [means(n) for n in ("guardrail@2", "@1", "", "guardrail@", OURS)] == [None] * 5
    for number in (1, 2):
        await add_job(store, key, "guardrail")
        await succeed(store, await claim(store), f"own{number}")
    assert [means(n) for n in ("guardrail", "guardrail@1", "guardrail@2", "guardrail@3")] == [
        "own2",
        "own1",
        "own2",
        None,
    ]
    assert means("guardrail", other.tenant_id) == "default"
    assert means("alias", other.tenant_id) == "default"
    assert [means(n) for n in ("alias", "alias@1", "alias@3")] == ["own2", "own1", None], (
        "its shadow has its aliases too"
    )
    assert [v.id for v in store.models.defaults()] == ["default"]
    assert store.models.names(OURS) == []


async def test_a_revoked_key_wakes_what_it_has_opened(store: Store) -> None:
    key = await make_key(store, "k")
    assert store.keys.is_valid(key.id)
    with store.signals.listen("another", key_topic(key.id)) as woken:
        await store.keys.revoke("k")
        assert woken.is_set()
    assert not store.keys.is_valid(key.id)
    await store.keys.load()
    assert not store.keys.is_valid(key.id)


async def test_a_database_of_the_first_version_is_brought_up(tmp_path: Path) -> None:
    import sqlite3

    old = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
    for statement in statements(dict(migrations())[1]):
        old.execute(statement)
    old.execute("PRAGMA user_version=1")
    old.execute("INSERT INTO tenants VALUES ('org-1', 't', 0)")
    old.execute("INSERT INTO keys VALUES ('key-1', 'org-1', 'k', 'd', 'h', '[]', 0, NULL, 0)")
    old.execute(
        "INSERT INTO jobs (id, tenant_id, key_id, status, source, model, labels, seed, training_file, created_at) "
        "VALUES ('ftjob-1', 'org-1', 'key-1', 'queued', 's', 'm', '[]', 1, 'f', 0)"
    )
    old.close()
    store = await Store.open(tmp_path)
    try:
        job = await claim(store)
        assert (job.id, job.claims, job.paused, job.base_model) == ("ftjob-1", 1, False, None)
        assert list((tmp_path / "backups").iterdir())
    finally:
        await store.close()
