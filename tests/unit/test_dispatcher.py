"""Shows what becomes of a job in every order of events, by an executor whose steps the test sets off one by one.

The scripted executor stands in for the training process, because the orders that matter here (a cancel between a
publish and its commit) cannot be hit on purpose with a real one. The database and the files are real.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from reflexd.engine.backbones import Ground
from reflexd.errors import ExecutorUnavailable, JobFailure, StorageFull, WorkerDied
from reflexd.registry import runs
from reflexd.scheduler import dispatcher as module
from reflexd.scheduler.dispatcher import Dispatcher, DispatchOptions
from reflexd.schemas.worker import Event, Failed, Metrics, Prepared, RunSpec, Trained
from reflexd.store.records import Job
from reflexd.store.signals import job_topic
from reflexd.store.store import Store
from tests.unit.test_store import add_job, make_key, messages

pytestmark = pytest.mark.anyio

Step = Event | Exception | asyncio.Event | Callable[[RunSpec], None]
PREPARED = Prepared(labels=["a", "b"], examples=10)


def publish(spec: RunSpec) -> None:
    folder = Path(spec.models_dir) / spec.model_id
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")


def trained() -> list[Step]:
    done = Trained(
        labels=["a", "b"],
        mode="single_label",
        examples=10,
        tokens=5,
        backbone="x",
        precision="int8",
        result={"accuracy": 1},
    )
    return [Metrics("Step 1: train_loss 0.5", {"step": 1}), publish, done]


class ScriptedExecutor:
    """Plays one script a run; a gate (asyncio.Event) in it waits for the test."""

    def __init__(self, *scripts: list[Step]) -> None:
        self.scripts = list(scripts)
        self.open = 0

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def run(self, spec: RunSpec) -> AsyncGenerator[Event, None]:
        self.open += 1
        try:
            for step in self.scripts.pop(0):
                match step:
                    case asyncio.Event():
                        await step.wait()
                    case Exception():
                        raise step
                    case _ if callable(step):
                        step(spec)
                    case _:
                        yield step
        finally:
            self.open -= 1


async def ground(run_dir: Path) -> Ground:
    return Ground(run_dir / "exported", run_dir / "weights")


@asynccontextmanager
async def dispatching(
    store: Store,
    folder: Path,
    executor: ScriptedExecutor,
    slots: int = 2,
    on_trouble: Callable[[str | None], None] = lambda _: None,
    ground: Callable[[Path], Awaitable[Ground]] = ground,
) -> AsyncIterator[Dispatcher]:
    for name in ("runs", "models"):
        (folder / name).mkdir(exist_ok=True)
    options = DispatchOptions(
        slots=slots, running_per_key=3, max_attempts=3, threads=1,
        runs_dir=folder / "runs", models_dir=folder / "models",
        budget_seconds=0.0, keep_rows=0, plugins_allow=[], ground=ground,
    )  # fmt: skip
    made = Dispatcher(store, executor, options, on_trouble)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def new_job(store: Store, folder: Path) -> Job:
    (folder / "runs").mkdir(exist_ok=True)
    key = next(iter(await store.keys.all()), None) or await make_key(store, "k")
    job = await add_job(store, key)
    runs.create(folder / "runs", job.id, runs.RunInput(source="s", payload=msgspec.Raw(b"[]")))
    return job


async def until(store: Store, job: Job, *statuses: str | None) -> Job | None:
    with store.signals.listen(job_topic(job.id)) as changed:
        async with asyncio.timeout(20):
            while True:
                changed.clear()
                found = await store.jobs.get(job.id)
                if (found.status if found else None) in statuses:
                    return found
                await changed.wait()


async def settled(dispatcher: Dispatcher) -> None:
    async with asyncio.timeout(20):
        while dispatcher._tasks:
            await asyncio.sleep(0.005)


def model_folders(folder: Path) -> set[str]:
    return {path.name for path in (folder / "models").iterdir()}


async def test_a_job_runs_both_stages_and_is_served(store: Store, tmp_path: Path) -> None:
    job = await new_job(store, tmp_path)
    async with dispatching(store, tmp_path, ScriptedExecutor([PREPARED], trained())):
        await until(store, job, "succeeded")
    assert model_folders(tmp_path) == store.models.ids() != set()
    assert (await messages(store, job))[3] == "Step 1: train_loss 0.5"
    assert (tmp_path / "runs" / job.id).exists()


async def test_cancelling_at_any_moment_leaves_a_whole_model_or_none(store: Store, tmp_path: Path) -> None:
    """The cancel is sent after k passes of the event loop from the moment the model is published, for many k."""
    outcomes = set()
    for passes in range(40):
        job = await new_job(store, tmp_path)
        gate = asyncio.Event()
        async with dispatching(store, tmp_path, ScriptedExecutor([PREPARED], [publish, gate, trained()[-1]])) as made:
            while not model_folders(tmp_path) - store.models.ids():
                await asyncio.sleep(0)
            gate.set()
            for _ in range(passes):
                await asyncio.sleep(0.0002)
            await store.jobs.cancel(job.id)
            ended = await until(store, job, "succeeded", "cancelled")
            await settled(made)
        assert ended is not None
        outcomes.add(ended.status)
        assert model_folders(tmp_path) == store.models.ids()
        assert (store.models.of_job(job.tenant_id, job.id) is not None) == (ended.status == "succeeded")
        assert (tmp_path / "runs" / job.id).exists() == (ended.status == "succeeded")
    assert outcomes == {"succeeded", "cancelled"}


@pytest.mark.parametrize("deleted", [False, True])
async def test_a_cancelled_or_deleted_job_ends_its_run_and_leaves_nothing(
    store: Store, tmp_path: Path, deleted: bool
) -> None:
    job = await new_job(store, tmp_path)
    executor = ScriptedExecutor([PREPARED], [publish, asyncio.Event()])
    async with dispatching(store, tmp_path, executor) as made:
        while not model_folders(tmp_path):
            await asyncio.sleep(0.001)
        await (store.deletions.delete_job(job.tenant_id, job.id) if deleted else store.jobs.cancel(job.id))
        await settled(made)
        assert executor.open == 0
        assert model_folders(tmp_path) == set()
        assert not (tmp_path / "runs" / job.id).exists()


async def test_a_cancel_right_after_the_claim_is_not_missed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await new_job(store, tmp_path)
    claim = store.jobs.claim

    async def claim_then_cancel(limit: int, except_sources: Sequence[str] = ()) -> Job | None:
        claimed = await claim(limit, except_sources)
        if claimed is not None:
            await store.jobs.cancel(claimed.id)
        return claimed

    monkeypatch.setattr(store.jobs, "claim", claim_then_cancel)
    executor = ScriptedExecutor([asyncio.Event()])
    async with dispatching(store, tmp_path, executor) as made:
        await until(store, job, "cancelled")
        await settled(made)
    assert executor.open == 0


async def test_stopping_puts_running_jobs_back(store: Store, tmp_path: Path) -> None:
    job = await new_job(store, tmp_path)
    executor = ScriptedExecutor([PREPARED], [publish, asyncio.Event()])
    async with dispatching(store, tmp_path, executor):
        while not model_folders(tmp_path):
            await asyncio.sleep(0.001)
    again = await store.jobs.get(job.id)
    assert again is not None
    assert (again.status, again.stage, again.interrupted, again.attempts) == ("queued", "train", 1, 0)
    assert executor.open == 0
    assert model_folders(tmp_path) == set()
    assert (tmp_path / "runs" / job.id).exists()


async def test_a_process_may_die_twice(store: Store, tmp_path: Path) -> None:
    job = await new_job(store, tmp_path)
    dies: list[Step] = [WorkerDied("was ended by SIGKILL")]
    async with dispatching(store, tmp_path, ScriptedExecutor(dies, [PREPARED], dies, trained())):
        done = await until(store, job, "succeeded", "failed")
    assert done is not None
    assert (done.status, done.attempts) == ("succeeded", 2)


async def test_a_job_whose_process_always_dies_fails_with_the_reason(store: Store, tmp_path: Path) -> None:
    job = await new_job(store, tmp_path)
    dies: list[Step] = [publish, WorkerDied("was ended by SIGKILL")]
    async with dispatching(store, tmp_path, ScriptedExecutor([PREPARED], dies, dies, dies)):
        done = await until(store, job, "succeeded", "failed")
    assert done is not None
    assert done.error is not None
    assert done.error["code"] == "worker_died"
    assert "SIGKILL, 3 times" in done.error["message"]
    assert model_folders(tmp_path) == set()


async def test_a_failure_is_told_whole(store: Store, tmp_path: Path) -> None:
    job = await new_job(store, tmp_path)
    async with dispatching(store, tmp_path, ScriptedExecutor([Failed("insufficient_examples", "Too few", "x[3]")])):
        done = await until(store, job, "failed")
    assert done is not None
    assert done.error == {"code": "insufficient_examples", "message": "Too few", "param": "x[3]"}
    assert (await messages(store, job))[-1] == "Job failed: Too few"


async def test_each_run_is_told_what_it_trains_on(store: Store, tmp_path: Path) -> None:
    given: list[RunSpec] = []
    job = await new_job(store, tmp_path)
    async with dispatching(store, tmp_path, ScriptedExecutor([given.append, PREPARED], [given.append, *trained()])):
        await until(store, job, "succeeded")
    run_dir = tmp_path / "runs" / job.id
    assert [spec.stage for spec in given] == ["prepare", "train"]
    assert {spec.backbone for spec in given} == {str(run_dir / "exported")}
    assert {spec.checkpoint for spec in given} == {str(run_dir / "weights")}


async def test_a_job_that_has_nothing_to_train_on_fails_with_the_reason(store: Store, tmp_path: Path) -> None:
    async def gone(_: Path) -> Ground:
        raise JobFailure("base_model_incompatible", "it is gone", "base_model")

    job = await new_job(store, tmp_path)
    async with dispatching(store, tmp_path, ScriptedExecutor(), ground=gone):
        failed = await until(store, job, "failed")
    assert failed is not None
    assert failed.error == {"code": "base_model_incompatible", "message": "it is gone", "param": "base_model"}


async def test_an_outcome_that_the_disk_refuses_is_made_again(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_SECONDS", 0.01)
    job = await new_job(store, tmp_path)
    succeed, requeue = store.jobs.succeed, store.jobs.requeue
    refusals = iter([True, True, False])

    async def refused_once(*args: object, **kwargs: object) -> object:
        if next(refusals):
            raise StorageFull from sqlite3.OperationalError("database or disk is full")
        return await succeed(*args, **kwargs)

    async def requeue_refused_once(*args: object, **kwargs: object) -> object:
        if next(refusals):
            raise StorageFull
        monkeypatch.setattr(store.jobs, "succeed", succeed)
        return await requeue(*args, **kwargs)

    monkeypatch.setattr(store.jobs, "succeed", refused_once)
    monkeypatch.setattr(store.jobs, "requeue", requeue_refused_once)
    async with dispatching(store, tmp_path, ScriptedExecutor([PREPARED], trained(), trained())):
        done = await until(store, job, "succeeded", "failed")
    assert done is not None
    assert done.status == "succeeded"
    assert model_folders(tmp_path) == store.models.ids()
    assert len(store.models.ids()) == 1


async def test_slots_bound_what_runs(store: Store, tmp_path: Path) -> None:
    jobs = [await new_job(store, tmp_path) for _ in range(5)]
    gate = asyncio.Event()
    scripts: list[list[Step]] = [[gate, Failed("x", "x")] for _ in jobs]
    executor = ScriptedExecutor(*scripts)
    async with dispatching(store, tmp_path, executor, slots=2) as made:
        await until(store, jobs[1], "running")
        for _ in range(20):
            await asyncio.sleep(0.002)
            assert executor.open <= 2
        assert len(made._tasks) == 2
        gate.set()
        for job in jobs:
            await until(store, job, "failed")


async def test_a_broken_machine_burns_no_job(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_SECONDS", 0.05)
    jobs = [await new_job(store, tmp_path) for _ in range(3)]
    broken: list[Step] = [ExecutorUnavailable("no more processes")]
    executor = ScriptedExecutor(*([broken] * 6), *([[PREPARED], trained()] * 3))
    told: list[str | None] = []
    async with dispatching(store, tmp_path, executor, slots=1, on_trouble=told.append):
        for job in jobs:
            done = await until(store, job, "succeeded", "failed")
            assert done is not None
            assert (done.status, done.attempts) == ("succeeded", 0)
    assert told == ["no more processes"] * 6 + [None]
