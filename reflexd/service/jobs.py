"""Decides what creating, following, holding and ending a training job means for its rows, files and process."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from weakref import WeakValueDictionary

import msgspec

from reflexd.errors import (
    BaseModelNotFound,
    InvalidRequest,
    JobNotCancellable,
    JobNotFound,
    JobNotPausable,
    JobNotPrepared,
    JobNotResumable,
    RateLimited,
    StorageFull,
)
from reflexd.registry import artifacts, runs
from reflexd.service.admission import Admission, Admitted, Repeat
from reflexd.service.base_models import BaseModels
from reflexd.service.job_files import JobFiles, Links
from reflexd.store.keys import Key
from reflexd.store.records import Event, Job
from reflexd.store.store import Store

CHECKED_IN_THREAD_BYTES = 100_000


class JobService:
    """Training jobs of tenants."""

    def __init__(
        self,
        store: Store,
        admission: Admission,
        files: JobFiles,
        base_models: BaseModels,
        queued_per_key: int,
        runs_dir: Path,
        models_dir: Path,
        forget: Callable[[Sequence[str]], None],
    ) -> None:
        """`forget` is told the directories of deleted models, so that memory lets go of them."""
        self._store = store
        self._admission = admission
        self._files = files
        self._base_models = base_models
        self._queued_per_key = queued_per_key
        self._runs_dir = runs_dir
        self._models_dir = models_dir
        self._forget = forget
        self._turns: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        self._editing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def create(self, key: Key, body: bytes, repeat: Repeat) -> Job:
        """Admit a job: check all that can be checked now, then store its input, then its row; a 400 names the field.

        A sending that repeats an earlier one returns the job that one made.
        """
        large = len(body) > CHECKED_IN_THREAD_BYTES
        sha256 = await asyncio.to_thread(_sha256, body) if large else _sha256(body)
        # In the order of arrival: the retry of a request that is still being admitted must find its job.
        async with self._turns.setdefault((key.id, repeat.idempotency_key or sha256), asyncio.Lock()):
            if large:
                admitted = await asyncio.to_thread(self._admission.admit, key, body, sha256, repeat)
            else:
                admitted = self._admission.admit(key, body, sha256, repeat)
            if earlier := await self._store.jobs.earlier(admitted.job, repeat.retried):
                return earlier
            admitted, links = await self._files.check(admitted)
            job = await self._store_input(admitted, links)
            try:
                stored = await self._store.jobs.insert(
                    job, self._queued_per_key, admitted.notes, retried=repeat.retried
                )
            except BaseException:
                await self._discard_unless_stored(job.id)
                raise
        if stored is None or stored.id != job.id:
            await self._discard_unless_stored(job.id)
        if stored is None:
            raise RateLimited(f"This API key already has {self._queued_per_key} jobs waiting")
        return stored

    async def _store_input(self, admitted: Admitted, links: Links) -> Job:
        """Write the run directory, with base model and files in it, and return the job with its base pinned."""
        job, folder = admitted.job, None
        if admitted.base is not None:
            version, folder = await self._base_models.pin(job.tenant_id, admitted.base, admitted)
            job = msgspec.structs.replace(job, base_model_version=version.version)
        try:
            await asyncio.to_thread(runs.create, self._runs_dir, job.id, admitted.given, folder, links)
        except FileNotFoundError as error:
            if folder is None:
                raise StorageFull from error
            raise BaseModelNotFound(param=admitted.base.param if admitted.base else None) from error  # deleted just now
        except OSError as error:
            raise StorageFull from error
        return job

    async def _discard_unless_stored(self, job_id: str) -> None:
        with contextlib.suppress(OSError):  # what stays behind is swept at the next start
            if await self._store.jobs.get(job_id) is None:
                await asyncio.to_thread(runs.discard, self._runs_dir, job_id)

    async def get(self, key: Key, job_id: str) -> Job:
        """Return a job of the key's tenant."""
        job = await self._store.jobs.get(job_id, key.tenant_id)
        if job is None:
            raise JobNotFound
        return job

    async def page(
        self, key: Key, limit: int, after: str | None, metadata: Mapping[str, str] | None = None, *, bare: bool = False
    ) -> tuple[list[Job], bool]:
        """Return jobs of the key's tenant, newest first, created before the job `after`; and whether more follow.

        `metadata` and `bare` are the list's filter, as in store/jobs.py.
        """
        before = None
        if after is not None:
            cursor = await self._store.jobs.get(after, key.tenant_id)
            # A loop that deletes what it lists goes on after a job that is gone.
            before = cursor.seq if cursor is not None else await self._store.deletions.place(key.tenant_id, after)
            if before is None:
                raise InvalidRequest("after is not the id of a job of yours", param="after")
        return await self._store.jobs.page(key.tenant_id, limit, before, metadata, bare=bare)

    async def events(self, key: Key, job_id: str, limit: int, after: str | None) -> tuple[list[Event], bool]:
        """Return a job's events, oldest first, after the event `after`; and whether more follow."""
        job = await self.get(key, job_id)
        n = 0 if after is None else event_number(job.id, after, "after")
        return await self._store.events.page(job.id, limit, n)

    async def checkpoints(self, key: Key, job_id: str) -> tuple[Job, Event | None]:
        """Return a job and the last point of its loss curve, which its one checkpoint is made of."""
        job = await self.get(key, job_id)
        return job, await self._store.events.last_metrics(job.id)

    async def cancel(self, key: Key, job_id: str, *, retried: bool) -> Job:
        """Cancel a job and remove its files; the dispatcher ends its process and sweeps what that wrote meanwhile."""
        job = await self.get(key, job_id)
        cancelled = await self._store.jobs.cancel(job.id)
        if cancelled is None:
            now = await self.get(key, job_id)
            if retried and now.status == "cancelled":
                return now
            raise JobNotCancellable
        await asyncio.to_thread(runs.discard, self._runs_dir, job.id)
        return cancelled

    async def pause(self, key: Key, job_id: str) -> Job:
        """Keep a job from running; one that runs gives its place back and begins its stage anew when resumed."""
        job = await self.get(key, job_id)
        paused = await self._store.jobs.pause(job.id)
        if paused is None:
            now = await self.get(key, job_id)
            if now.paused:
                return now
            raise JobNotPausable
        return paused

    async def resume(self, key: Key, job_id: str, *, retried: bool) -> Job:
        """Let a paused job go on, or train one that rests at `prepared`."""
        job = await self.get(key, job_id)
        resumed = await self._store.jobs.resume(job.id) or await self._store.jobs.train(job.id)
        if resumed is None:
            now = await self.get(key, job_id)
            if retried and now.status in ("queued", "running"):
                return now
            raise JobNotResumable
        return resumed

    async def train(self, key: Key, job_id: str, *, retried: bool) -> Job:
        """Train a job that rests at `prepared`."""
        job = await self.get(key, job_id)
        async with self.turn(job.id):
            queued = await self._store.jobs.train(job.id)
        if queued is None:
            now = await self.get(key, job_id)
            if retried and not now.auto_train and now.stage == "train" and now.status in ("queued", "running"):
                return now
            raise JobNotPrepared
        return queued

    def turn(self, job_id: str) -> asyncio.Lock:
        """Return what is held while a job's rows are replaced or its training is begun: one comes after the other."""
        return self._editing.setdefault(job_id, asyncio.Lock())

    async def delete(self, key: Key, job_id: str, *, retried: bool) -> None:
        """Delete a job with its events, files and model version; the dispatcher ends a running one's process.

        One that went with its model already, or by an earlier sending of this request, counts as deleted.
        """
        job = await self._store.jobs.get(job_id, key.tenant_id)
        if job is None:
            if is_job_id(job_id) and await self._store.deletions.counts(key.tenant_id, job_id, "job", retried=retried):
                return
            raise JobNotFound
        gone = await self._store.deletions.delete_job(key.tenant_id, job.id)
        await self.discard([job.id], gone)

    async def discard(self, job_ids: Sequence[str], model_ids: Sequence[str]) -> None:
        """Remove the files of deleted jobs and models, from memory and from disk."""
        self._forget(model_ids)
        for job_id in job_ids:
            await asyncio.to_thread(runs.discard, self._runs_dir, job_id)
        for model_id in model_ids:
            await asyncio.to_thread(artifacts.discard, self._models_dir, model_id)


def is_job_id(name: str) -> bool:
    """Whether a name is a job's id and not a served name, which never begins like one."""
    return name.startswith("ftjob-")


def event_prefix(job_id: str) -> str:
    """Return what the ids of a job's events begin with; their number follows after a dash."""
    return "ftevent-" + job_id.removeprefix("ftjob-")


def event_number(job_id: str, event_id: str, param: str) -> int:
    """Return the number of an event of the job; raises InvalidRequest for what is no id of one."""
    prefix, _, number = event_id.rpartition("-")
    if prefix != event_prefix(job_id) or not (number.isascii() and number.isdigit() and len(number) < 19):
        raise InvalidRequest(f"{param} is not the id of an event of this job", param=param)
    return int(number)


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
