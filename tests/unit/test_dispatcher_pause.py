"""Shows that pausing ends a run and puts its job aside, and that no order of pausing and resuming doubles a job."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from reflexd.schemas.worker import Event, RunSpec
from reflexd.store.store import Store
from tests.unit.test_dispatcher import (
    PREPARED,
    ScriptedExecutor,
    dispatching,
    model_folders,
    new_job,
    publish,
    settled,
    trained,
    until,
)
from tests.unit.test_store import messages

pytestmark = pytest.mark.anyio


class EndlessScripts(ScriptedExecutor):
    """Plays both stages of any number of runs, each with a short wait in it; counts the runs of a job at once."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self.chance = chance
        self.at_work: Counter[str] = Counter()
        self.at_once = 0

    async def run(self, spec: RunSpec) -> AsyncGenerator[Event, None]:
        self.at_work[spec.job_id] += 1
        self.at_once = max(self.at_once, *self.at_work.values())
        try:
            await asyncio.sleep(self.chance.random() * 0.004)
            if spec.stage == "prepare":
                yield PREPARED
                return
            metrics, _, done = trained()
            assert isinstance(metrics, Event)
            yield metrics
            await asyncio.sleep(self.chance.random() * 0.004)
            publish(spec)
            assert isinstance(done, Event)
            yield done
        finally:
            try:
                await asyncio.sleep(0.001)  # a process takes its time to end
            finally:
                self.at_work[spec.job_id] -= 1


async def test_a_paused_run_ends_and_its_job_waits(store: Store, tmp_path: Path) -> None:
    never = asyncio.Event()
    executor = ScriptedExecutor([PREPARED], [never], trained())
    job = await new_job(store, tmp_path)
    async with dispatching(store, tmp_path, executor) as dispatcher:
        await until(store, job, "running")
        while executor.open == 0 or (await store.jobs.get(job.id)).stage == "prepare":  # type: ignore[union-attr]
            await asyncio.sleep(0.002)
        await store.jobs.pause(job.id)
        back = await until(store, job, "queued")
        assert back is not None
        assert (back.paused, back.attempts, back.interrupted, executor.open) == (True, 0, 0, 0)
        await settled(dispatcher)
        assert (tmp_path / "runs" / job.id).is_dir(), "its rows are kept"
        await store.jobs.resume(job.id)
        assert await until(store, job, "succeeded")
    said = await messages(store, job)
    assert said.count("Job running") == 2
    assert len(model_folders(tmp_path)) == 1


@pytest.mark.parametrize("seed", range(6))
async def test_pausing_and_resuming_in_any_order_ends_in_one_success(store: Store, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    executor = EndlessScripts(chance)
    made = [await new_job(store, tmp_path) for _ in range(3)]
    cancelled = made[-1]
    async with dispatching(store, tmp_path, executor, slots=3) as dispatcher:

        async def meddle(number: int) -> None:
            job = made[number]
            for _ in range(25):
                await asyncio.sleep(chance.random() * 0.006)
                await chance.choice([store.jobs.pause, store.jobs.resume])(job.id)
            if job is cancelled:
                await store.jobs.cancel(job.id)
            await store.jobs.resume(job.id)

        await asyncio.gather(*map(meddle, range(3)))
        for job in made:
            await until(store, job, "succeeded", "cancelled")
        await settled(dispatcher)
    assert executor.at_once == 1, "no job has ever had two runs at once"
    done = [job for job in made if (await store.jobs.get(job.id)).status == "succeeded"]  # type: ignore[union-attr]
    assert {job.id for job in made} - {job.id for job in done} <= {cancelled.id}
    assert len(model_folders(tmp_path)) == len(done) == len(store.models.ids())
    for job in made:
        said = await messages(store, job)
        now = await store.jobs.get(job.id)
        assert now is not None
        assert now.claims == said.count("Job running")
        assert sum(line.startswith(("Job succeeded", "Job cancelled")) for line in said) == 1
        assert said[-1].startswith(("Job succeeded", "Job cancelled"))
        assert (now.attempts, now.interrupted, now.paused) == (0, 0, False)
