"""Decides which queued job runs next and what becomes of it: claim, run its stages, record the outcome once.

Every outcome is a guarded change in the store; whoever loses the race (a cancel against a success) cleans up its files.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from msgspec import Struct

from reflexd.engine.backbones import Ground
from reflexd.engine.device import Device
from reflexd.errors import ExecutorUnavailable, JobFailure, LLMFailed, StartupError, StorageFull, WorkerDied
from reflexd.hookspecs import Executor
from reflexd.registry import artifacts, runs
from reflexd.schemas.worker import Failed, LLMAccess, Message, Metrics, Prepared, RunSpec, Stage, Trained
from reflexd.store.identifiers import new_directory_id
from reflexd.store.records import Job
from reflexd.store.signals import QUEUED, job_topic
from reflexd.store.store import Store

RETRY_SECONDS = 5.0
FIRST_PAUSE_SECONDS = 2.0
LAST_PAUSE_SECONDS = 60.0

log = structlog.get_logger(__name__)


class DispatchOptions(Struct, frozen=True, kw_only=True):
    """What the dispatcher needs to know, from the configuration and the data directory."""

    slots: int
    running_per_key: int
    max_attempts: int
    threads: int
    budget_seconds: float
    keep_rows: int
    runs_dir: Path
    models_dir: Path
    plugins_allow: list[str]
    ground: Callable[[Path], Awaitable[Ground]]
    """Tells for a job's run directory which encoder it is trained on; raises JobFailure, or StartupError."""
    llm_sources: frozenset[str] = frozenset()
    """The data sources that need the local LLM to make their rows."""
    lease_llm: Callable[[], AbstractAsyncContextManager[LLMAccess]] | None = None
    """Holds the LLM up; raises LLMFailed."""
    keep_made: Callable[[Job], Awaitable[list[str]]] | None = None
    """Keeps the rows that were made with the LLM as files of the job's tenant, and returns their ids."""
    device: Device = Device(exclusive=False)


class Dispatcher:
    """Keeps up to `slots` jobs running until it is stopped."""

    def __init__(
        self,
        store: Store,
        executor: Executor,
        options: DispatchOptions,
        on_trouble: Callable[[str | None], None] = lambda _: None,
    ) -> None:
        """`on_trouble` is told why no run can be started at present, and None once one can be again."""
        self._store = store
        self._executor = executor
        self._options = options
        self._tasks: set[asyncio.Task[None]] = set()
        self._claiming = True
        self._pause = 0.0
        self._paused_until = 0.0
        self._on_trouble = on_trouble
        self._with_llm: set[str] = set()
        """Jobs whose rows are being made with the local LLM, which takes minutes."""

    def stop_claiming(self) -> None:
        """Start no further job; running ones go on."""
        self._claiming = False

    async def run(self) -> None:
        """Claim and run jobs until cancelled; running jobs are then put back in the queue."""
        with self._store.signals.listen(QUEUED) as wake:
            try:
                while True:
                    wake.clear()
                    try:
                        await self._fill_slots()
                    except Exception:  # a full disk, say: the safety tick or the next wake-up tries again
                        log.exception("claiming a job failed")
                    await wake.wait()
            finally:
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _fill_slots(self) -> None:
        while self._claiming and len(self._tasks) < self._options.slots:
            if asyncio.get_running_loop().time() < self._paused_until:
                return
            # One at a time, which has the LLM's whole speed and leaves the other slots to jobs of seconds.
            waiting = self._options.llm_sources if self._with_llm else ()
            job = await self._store.jobs.claim(self._options.running_per_key, sorted(waiting))
            if job is None:
                return
            if self._needs_llm(job):
                self._with_llm.add(job.id)
            log.info("job running", job_id=job.id, stage=job.stage)
            task = asyncio.create_task(self._supervise(job))
            self._tasks.add(task)
            task.add_done_callback(partial(self._freed, job.id))

    def _freed(self, job_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._with_llm.discard(job_id)
        if not task.cancelled() and (error := task.exception()):
            log.critical("supervising a job failed", job_id=job_id, exc_info=error)
        self._store.signals.wake(QUEUED)

    async def _supervise(self, job: Job) -> None:
        """Run a claimed job, end its process when the job is cancelled, deleted or paused, and clean up after it."""
        with self._store.signals.listen(job_topic(job.id)) as changed:
            changed.set()  # what changed between the claim and now was told to nobody
            work = asyncio.create_task(self._work(job))
            try:
                while not work.done():
                    waiter = asyncio.create_task(changed.wait())
                    await asyncio.wait({work, waiter}, return_when=asyncio.FIRST_COMPLETED)
                    waiter.cancel()
                    changed.clear()
                    if not work.done() and await self._is_unwanted(job.id, running=True):
                        work.cancel()
                        await asyncio.wait({work})
                        log.info("job ended from outside", job_id=job.id)
            except asyncio.CancelledError:  # the daemon stops
                work.cancel()
                await asyncio.wait({work})
                await self._store.jobs.requeue(job, "The daemon stops; the job is queued again", died=False)
                raise
            if not work.cancelled() and (error := work.exception()):
                log.error("job could not be recorded", job_id=job.id, exc_info=error)
                said = "The outcome could not be stored; the job is queued again"
                await self._put_back(partial(self._store.jobs.requeue, job, said, died=False))
            elif await self._is_running(job):  # it was paused: its run was ended, or its outcome dropped
                await self._put_back(partial(self._store.jobs.put_aside, job))
            if await self._is_unwanted(job.id):
                await asyncio.to_thread(runs.discard, self._options.runs_dir, job.id)

    async def _is_running(self, job: Job) -> bool:
        now = await self._store.jobs.get(job.id)
        return now is not None and now.status == "running" and now.claims == job.claims

    async def _is_unwanted(self, job_id: str, *, running: bool = False) -> bool:
        """Whether a job is cancelled or deleted; where it is running, whether it must not go on (a pause, too)."""
        job = await self._store.jobs.get(job_id)
        return job is None or job.status == "cancelled" or (running and job.paused)

    async def _put_back(self, change: Callable[[], Awaitable[Job | None]]) -> None:
        """Queue a job again whose outcome the disk refused or nobody wants, as soon as the disk takes it."""
        while True:
            try:
                await change()
                return
            except StorageFull:
                await asyncio.sleep(RETRY_SECONDS)

    async def _work(self, job: Job) -> None:
        """Run the job's remaining stages; whatever goes wrong here ends or re-queues the job."""
        try:
            current: Job | None = job
            while current is not None and current.status == "running":
                current = await self._stage(current)
        except (ExecutorUnavailable, StartupError) as trouble:
            self._wait_for_executor(str(trouble))
            said = "Training processes cannot be started at present; the job is queued again"
            await self._store.jobs.requeue(job, said, died=False)
        except WorkerDied as death:
            await self._died(job, str(death))
        except JobFailure as failure:
            await self._store.jobs.fail(job, failure.code, failure.message, failure.param)
            log.info("job failed", job_id=job.id, code=failure.code)
        except StorageFull:
            raise
        except Exception:
            log.exception("job failed on an internal error", job_id=job.id)
            await self._store.jobs.fail(job, "internal_error", "The daemon failed to run this job")

    async def _stage(self, job: Job) -> Job | None:
        """Run one stage; return the job as it then is, None when it has ended."""
        async with contextlib.AsyncExitStack() as held:
            access = await self._hold(job, held)
            try:
                return await self._run(job, access)
            finally:
                if job.id in self._with_llm:
                    self._with_llm.discard(job.id)
                    self._store.signals.wake(QUEUED)

    def _needs_llm(self, job: Job) -> bool:
        return job.stage == "prepare" and job.source in self._options.llm_sources

    async def _hold(self, job: Job, held: contextlib.AsyncExitStack) -> LLMAccess | None:
        """Wait for what the stage needs besides a process: the LLM, or the device."""
        options = self._options
        if not self._needs_llm(job):
            if job.stage == "train":
                await held.enter_async_context(options.device.using("training"))
            return None
        if options.lease_llm is None:
            raise LLMFailed("none is set up any more")
        await self._store.jobs.add_event(job, "Waiting for the local LLM")
        return await held.enter_async_context(options.lease_llm())

    async def _run(self, job: Job, access: LLMAccess | None) -> Job | None:
        model_id = new_directory_id()
        spec = self._spec(job, model_id, await self._options.ground(self._options.runs_dir / job.id), access)
        try:
            # Leaving early closes the generator, which ends the process.
            async with contextlib.aclosing(self._executor.run(spec)) as events:
                async for event in events:
                    if self._pause:  # a run that says something shows that runs can be started
                        self._pause = 0.0
                        self._on_trouble(None)
                    match event:
                        case Message():
                            await self._store.jobs.add_event(job, event.message, event.level, data=event.data)
                        case Metrics():
                            await self._store.jobs.add_event(job, event.message, kind="metrics", data=event.data)
                        case Prepared():
                            files = await self._keep_made(job)
                            return await self._store.jobs.prepared(job, event.labels, event.mode, event.examples, files)
                        case Failed():
                            await self._store.jobs.fail(job, event.code, event.message, event.param)
                            log.info("job failed", job_id=job.id, code=event.code)
                            return None
                        case Trained():
                            await _to_the_end(self._record(job, model_id, event))
                            return None
            raise WorkerDied("ended without an outcome")
        finally:
            if job.stage == "train" and model_id not in self._store.models:
                await asyncio.to_thread(artifacts.discard, self._options.models_dir, model_id)

    async def _keep_made(self, job: Job) -> list[str]:
        if self._options.keep_made is None or not self._needs_llm(job):
            return []
        return await self._options.keep_made(job)

    async def _record(self, job: Job, model_id: str, event: Trained) -> None:
        version = await self._store.jobs.succeed(
            job,
            model_id=model_id,
            labels=event.labels,
            mode=event.mode,
            backbone=event.backbone,
            precision=event.precision,
            examples=event.examples,
            tokens=event.tokens,
            result=event.result,
        )
        if version is not None:
            log.info("job succeeded", job_id=job.id, version=version.version)

    async def _died(self, job: Job, why: str) -> None:
        attempts = job.attempts + 1
        log.warning("training process died", job_id=job.id, why=why, attempt=attempts)
        if attempts < self._options.max_attempts:
            said = f"The training process {why}; the job is queued again (attempt {attempts})"
            await self._store.jobs.requeue(job, said, died=True)
        else:
            said = f"The training process {why}, {attempts} times; the machine may be short of memory"
            await self._store.jobs.fail(job, "worker_died", said)

    def _wait_for_executor(self, why: str) -> None:
        """Claim nothing for a while, longer each time in a row: the queue must not be burnt by a broken machine."""
        self._pause = min(max(self._pause * 2, FIRST_PAUSE_SECONDS), LAST_PAUSE_SECONDS)
        loop = asyncio.get_running_loop()
        self._paused_until = loop.time() + self._pause
        loop.call_later(self._pause + 0.01, self._store.signals.wake, QUEUED)
        log.error("no training process", why=why, next_try_seconds=self._pause)
        self._on_trouble(why)

    def _spec(self, job: Job, model_id: str, ground: Ground, access: LLMAccess | None) -> RunSpec:
        options = self._options
        stage: Stage = job.stage
        return RunSpec(
            job_id=job.id,
            stage=stage,
            run_dir=str(options.runs_dir / job.id),
            models_dir=str(options.models_dir),
            model_id=model_id,
            backbone=str(ground.exported),
            backbone_fp32="" if ground.fp32 is None else str(ground.fp32),
            checkpoint=str(ground.checkpoint),
            seed=job.seed,
            threads=options.threads,
            budget_seconds=job.hyperparameters.get("budget_seconds", options.budget_seconds),
            keep_rows=options.keep_rows,
            plugins_allow=options.plugins_allow,
            lineage={
                "job_id": job.id,
                "base_model": job.base_model,
                "base_model_version": job.base_model_version,
            },
            llm=access,
        )


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Await something that must not be left half known: when cancelled meanwhile, finish it first."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
