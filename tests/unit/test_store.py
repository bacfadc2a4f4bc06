"""Shows the life of a job row in a real database: guarded changes, fair claims, gapless events, versions, recovery."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from reflexd.store.identifiers import new_id
from reflexd.store.keys import Key
from reflexd.store.records import Job
from reflexd.store.signals import QUEUED, job_topic
from reflexd.store.store import Store

pytestmark = pytest.mark.anyio


async def make_key(store: Store, name: str, tenant: str | None = None) -> Key:
    key = store.keys.find(await store.keys.create(name, tenant))
    assert key is not None
    return key


async def add_job(store: Store, key: Key, suffix: str | None = None) -> Job:
    job = Job(
        id=new_id("ftjob-"),
        tenant_id=key.tenant_id,
        key_id=key.id,
        source="training_data",
        suffix=suffix,
        model="m",
        labels=["a", "b"],
        seed=1,
        metadata={"k": "v"},
        training_file="f",
        created_at=int(time.time()),
    )
    stored = await store.jobs.insert(job, 1000)
    assert stored is not None
    return stored


async def claim(store: Store) -> Job:
    claimed = await store.jobs.claim(99)
    assert claimed is not None
    return claimed


async def succeed(store: Store, job: Job, model_id: str) -> int | None:
    version = await store.jobs.succeed(
        job, model_id=model_id, labels=["a", "b"], mode="single_label", backbone="x", precision="int8",
        examples=10, tokens=20, result={"accuracy": 0.5},
    )  # fmt: skip
    return version.version if version else None


async def messages(store: Store, job: Job) -> list[str]:
    events, more = await store.events.page(job.id, 100)
    assert [e.n for e in events] == list(range(1, len(events) + 1))
    assert not more
    return [e.message for e in events]


async def test_a_job_from_the_queue_to_a_served_version(store: Store) -> None:
    key = await make_key(store, "k")
    await add_job(store, key, "name")
    claimed = await store.jobs.claim(3)
    assert claimed is not None
    assert claimed.metadata == {"k": "v"}
    after = await store.jobs.prepared(claimed, ["a", "b"], "single_label", 10)
    assert after is not None
    assert (after.status, after.stage) == ("running", "train")
    await store.jobs.add_event(claimed, "Step 1", kind="metrics", data={"step": 1})
    assert await succeed(store, claimed, "dir1") == 1
    done = await store.jobs.get(claimed.id)
    assert done is not None
    assert (done.status, done.result, done.trained_tokens) == ("succeeded", {"accuracy": 0.5}, 20)
    said = await messages(store, claimed)
    assert said[:2] == ["Job queued", "Job running"]
    assert said[-1].startswith("Job succeeded")
    for name in ("name", claimed.id):
        version = store.models.resolve(key.tenant_id, name)
        assert version is not None
        assert version.id == "dir1"
    assert store.models.resolve("org-other", "name") is None


async def test_a_terminal_status_never_changes(store: Store) -> None:
    key = await make_key(store, "k")
    await add_job(store, key)
    job = await store.jobs.claim(3)
    assert job is not None
    assert await store.jobs.cancel(job.id) is not None
    assert await succeed(store, job, "d") is None
    assert await store.jobs.fail(job, "c", "m") is None
    assert await store.jobs.cancel(job.id) is None
    assert await store.jobs.requeue(job, "w", died=True) is None
    await store.jobs.add_event(job, "too late")
    assert (await messages(store, job))[-1] == "Job cancelled"
    assert "d" not in store.models


async def test_cancel_and_success_at_once_have_one_winner(store: Store) -> None:
    key = await make_key(store, "k")
    for number in range(20):
        await add_job(store, key)
        job = await store.jobs.claim(99)
        assert job is not None
        won, cancelled = await asyncio.gather(succeed(store, job, f"d{number}"), store.jobs.cancel(job.id))
        assert (won is None) != (cancelled is None)
        assert (f"d{number}" in store.models) == (won is not None)


async def test_claims_are_fair_between_keys_and_bounded_for_each(store: Store) -> None:
    greedy, modest = await make_key(store, "greedy"), await make_key(store, "modest")
    for _ in range(6):
        await add_job(store, greedy)
    last = await add_job(store, modest)
    order = [await store.jobs.claim(3) for _ in range(5)]
    assert [j.key_id if j else None for j in order] == [greedy.id, modest.id, greedy.id, greedy.id, None]
    assert order[1] is not None
    assert order[1].id == last.id


async def test_two_keys_take_turns_even_when_only_one_job_runs_at_a_time(store: Store) -> None:
    keys = [await make_key(store, name) for name in "ab"]
    for key in keys:
        for _ in range(3):
            await add_job(store, key)
    order = []
    for _ in range(6):
        job = await store.jobs.claim(3)
        assert job is not None
        order.append(job.key_id)
        await store.jobs.fail(job, "c", "m")
    assert order == [keys[0].id, keys[1].id] * 3


async def test_concurrent_claims_never_give_a_job_twice(store: Store) -> None:
    key = await make_key(store, "k")
    for _ in range(30):
        await add_job(store, key)
    claimed = await asyncio.gather(*(store.jobs.claim(1000) for _ in range(40)))
    ids = [job.id for job in claimed if job]
    assert len(ids) == len(set(ids)) == 30


async def test_the_queue_of_a_key_is_bounded(store: Store) -> None:
    key = await make_key(store, "k")
    first = await add_job(store, key)
    assert await store.jobs.insert(Job(**{f: getattr(first, f) for f in first.__struct_fields__}), 1) is None


async def test_a_restart_queues_running_jobs_again_and_keeps_everything_else(tmp_path: Path) -> None:
    store = await Store.open(tmp_path)
    key = await make_key(store, "k")
    secret = await store.keys.create("other", "k")
    for _ in range(3):
        await add_job(store, key, "n")
    running, queued, done = [await claim(store) for _ in range(3)]
    await store.jobs.requeue(queued, "x", died=False)
    await succeed(store, done, "dir")
    await store.close()
    await store.close()

    store = await Store.open(tmp_path)
    assert [job.id for job in await store.jobs.recover()] == [running.id]
    again = await store.jobs.get(running.id)
    assert again is not None
    assert (again.status, again.interrupted, again.attempts) == ("queued", 1, 0)
    found = store.keys.find(secret)
    assert found is not None
    assert found.tenant_id == key.tenant_id
    assert store.models.resolve(key.tenant_id, "n") is not None
    assert await store.jobs.live_ids() == {running.id, queued.id, done.id}
    await store.close()


async def test_a_version_number_is_never_given_twice(store: Store) -> None:
    key = await make_key(store, "k")
    made = []
    for number in range(3):
        await add_job(store, key, "name")
        job = await claim(store)
        made.append((job, await succeed(store, job, f"d{number}")))
    assert [version for _, version in made] == [1, 2, 3]
    assert await store.deletions.delete_job(made[2][0].tenant_id, made[2][0].id) == ["d2"]
    latest = store.models.resolve(key.tenant_id, "name")
    assert latest is not None
    assert latest.version == 2
    await add_job(store, key, "name")
    assert await succeed(store, await claim(store), "d3") == 4
    assert [v.version for v in store.models.versions(key.tenant_id, "name")] == [1, 2, 4]
    assert await store.database.rows("SELECT * FROM events WHERE job_id = ?", (made[2][0].id,)) == []


async def test_paging_is_newest_first_by_keyset(store: Store) -> None:
    key, other = await make_key(store, "k"), await make_key(store, "o")
    ids = [(await add_job(store, key)).id for _ in range(5)]
    await add_job(store, other)
    first, more = await store.jobs.page(key.tenant_id, 2)
    assert ([j.id for j in first], more) == ([ids[4], ids[3]], True)
    rest, more = await store.jobs.page(key.tenant_id, 3, first[-1].seq)
    assert ([j.id for j in rest], more) == ([ids[2], ids[1], ids[0]], False)


async def test_keys_revoked_or_ambiguous(store: Store) -> None:
    secrets = [await store.keys.create("same", "tenant") for _ in range(2)]
    assert await store.keys.revoke("same") is None
    key = store.keys.find(secrets[0])
    assert key is not None
    assert await store.keys.revoke(key.id) is not None
    assert store.keys.find(secrets[0]) is None
    assert store.keys.find(secrets[1]) is not None
    assert await store.keys.revoke(key.id) is None
    rows = await store.database.rows("SELECT digest, hint FROM keys")
    assert not any(secret in str(tuple(row)) for secret in secrets for row in rows)


async def test_signals_tell_of_queue_and_job(store: Store) -> None:
    key = await make_key(store, "k")
    with store.signals.listen(QUEUED) as queued:
        job = await add_job(store, key)
        assert queued.is_set()
    with store.signals.listen(job_topic(job.id)) as changed:
        await store.jobs.cancel(job.id)
        assert changed.is_set()
