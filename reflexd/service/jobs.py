"""Decides which training jobs are admitted, and what cancelling and deleting one does."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from reflexd.config import Limits
from reflexd.engine.dataset import BadRow, check_labels, check_rows
from reflexd.errors import (
    InvalidRequest,
    JobNotCancellable,
    JobNotFound,
    NotSupportedYet,
    RateLimited,
    StartupError,
    StorageFull,
    UnknownBaseModel,
)
from reflexd.hookspecs import DataSource, InvalidInput, payload_type
from reflexd.registry import artifacts, runs
from reflexd.schemas.openai import COLD_START, Method
from reflexd.service.decoding import convert, decode
from reflexd.service.names import check_suffix
from reflexd.store.identifiers import new_id
from reflexd.store.jobs import Event, Job
from reflexd.store.keys import Key
from reflexd.store.store import Store

CHECKED_IN_THREAD_BYTES = 100_000
LATER = ("generate", "label_data", "base_model", "webhook_url", "validation_file", "integrations")
"""Fields of the contract that this version refuses rather than ignores."""

Metadata = Annotated[
    dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)
]


class CreateFields(Struct, kw_only=True):
    """The fixed fields of POST /v1/fine_tuning/jobs; the input's field is named by its data source."""

    model: str | None = None
    suffix: str | None = None
    labels: list[str] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    metadata: Metadata | None = None
    auto_train: bool = True
    method: Method | None = None
    hyperparameters: dict[str, Any] | None = None


class JobLimits(Struct, frozen=True, kw_only=True):
    """What admission is bounded by."""

    content: Limits
    queued_per_key: int


class JobService:
    """Training jobs of tenants."""

    def __init__(
        self,
        store: Store,
        sources: Mapping[str, DataSource],
        limits: JobLimits,
        runs_dir: Path,
        models_dir: Path,
        forget: Callable[[Sequence[str]], None],
    ) -> None:
        """`forget` is told the directories of deleted models, so that memory lets go of them.

        Raises StartupError for a source that would take the name of one of the request's own fields.
        """
        taken = {*CreateFields.__struct_fields__, *LATER, "training_file"} - {"generate", "label_data"}
        for name in sources:
            if name in taken:
                raise StartupError(
                    f"a plugin registers the data source {name!r}, which is a field of the request already"
                )
        self._store = store
        self._sources = sources
        self._limits = limits
        self._runs_dir = runs_dir
        self._models_dir = models_dir
        self._forget = forget

    async def create(self, key: Key, body: bytes) -> Job:
        """Admit a job: check all that can be checked now, then store its input, then its row; a 400 names the field."""
        if len(body) > CHECKED_IN_THREAD_BYTES:
            job, given, notes = await asyncio.to_thread(self._admit, key, body)
        else:
            job, given, notes = self._admit(key, body)
        try:
            await asyncio.to_thread(runs.create, self._runs_dir, job.id, given)
        except OSError as error:
            raise StorageFull from error
        try:
            stored = await self._store.jobs.insert(job, self._limits.queued_per_key, notes)
        except BaseException:
            await self._discard_unless_stored(job.id)
            raise
        if stored is None:
            await self._discard_unless_stored(job.id)
            raise RateLimited(f"This API key already has {self._limits.queued_per_key} jobs waiting")
        return stored

    async def _discard_unless_stored(self, job_id: str) -> None:
        with contextlib.suppress(OSError):  # what stays behind is swept at the next start
            if await self._store.jobs.get(job_id) is None:
                await asyncio.to_thread(runs.discard, self._runs_dir, job_id)

    def _admit(self, key: Key, body: bytes) -> tuple[Job, runs.RunInput, list[str]]:
        raw = decode(body, dict[str, msgspec.Raw])
        fixed = {name: decode_field(name, raw[name]) for name in CreateFields.__struct_fields__ if name in raw}
        fields: CreateFields = convert(fixed, CreateFields)
        source = self._choose_source(raw)
        for name in LATER:
            if name in raw and name not in self._sources and bytes(raw[name]).strip() not in (b"null", b"[]"):
                raise NotSupportedYet(f"{name} is not supported by this version of reflexd yet", param=name)
        if not fields.auto_train:
            raise NotSupportedYet(
                "auto_train: false is not supported by this version of reflexd yet", param="auto_train"
            )
        if fields.model not in (None, "", COLD_START):
            raise UnknownBaseModel(f"model must be {COLD_START} in this version of reflexd", param="model")
        if fields.suffix is not None:
            check_suffix(fields.suffix)
        given_labels = fields.labels or []
        labels, examples = self._check_input(source, raw[source.name], given_labels)
        job_id = new_id("ftjob-")
        job = Job(
            id=job_id,
            tenant_id=key.tenant_id,
            key_id=key.id,
            source=source.name,
            suffix=fields.suffix,
            model=COLD_START,
            labels=labels,
            seed=fields.seed if fields.seed is not None else secrets.randbelow(2**31),
            metadata=fields.metadata,
            training_file=f"file-inline-{job_id}",  # one that was sent beside an inline input is ignored
            trained_examples=examples,
            created_at=int(time.time()),
        )
        limits = msgspec.to_builtins(self._limits.content)
        given = runs.RunInput(source=source.name, payload=raw[source.name], labels=given_labels, limits=limits)
        notes = ["hyperparameters were ignored: training is fully managed"] if fields.hyperparameters else []
        return job, given, notes

    def _choose_source(self, raw: Mapping[str, msgspec.Raw]) -> DataSource:
        named = [name for name in self._sources if name in raw and bytes(raw[name]).strip() != b"null"]
        if len(named) == 1:
            return self._sources[named[0]]
        choices = ", ".join(sorted(self._sources))
        if named:
            raise InvalidRequest(f"Exactly one input is allowed, and {' and '.join(named)} are given", param=named[1])
        later = next((name for name in ("generate", "label_data") if name in raw), None)
        if later:
            raise NotSupportedYet(f"{later} is not supported by this version of reflexd yet", param=later)
        raise InvalidRequest(f"One input is needed: {choices}", param="training_data")

    def _check_input(self, source: DataSource, payload: msgspec.Raw, labels: list[str]) -> tuple[list[str], int]:
        """Return the label order and the number of rows, as far as they are known before the job runs."""
        limits = self._limits.content
        try:
            check_labels(labels, limits)
        except BadRow as error:
            raise InvalidRequest(error.message, param="labels" + error.param) from error
        try:
            rows = source.check(decode_field(source.name, payload, payload_type(source)), labels)
            return (labels, 0) if rows is None else (check_rows(rows, labels, limits)[0], len(rows))
        except (BadRow, InvalidInput) as error:
            raise InvalidRequest(error.message, param=source.name + error.param) from error

    async def get(self, key: Key, job_id: str) -> Job:
        """Return a job of the key's tenant."""
        job = await self._store.jobs.get(job_id, key.tenant_id)
        if job is None:
            raise JobNotFound
        return job

    async def page(self, key: Key, limit: int, after: str | None) -> tuple[list[Job], bool]:
        """Return jobs of the key's tenant, newest first, created before the job `after`; and whether more follow."""
        before = None
        if after is not None:
            cursor = await self._store.jobs.get(after, key.tenant_id)
            if cursor is None:
                raise InvalidRequest("after is not the id of a job of yours", param="after")
            before = cursor.seq
        return await self._store.jobs.page(key.tenant_id, limit, before)

    async def events(self, key: Key, job_id: str, limit: int, after: str | None) -> tuple[list[Event], bool]:
        """Return a job's events, oldest first, after the event `after`; and whether more follow."""
        job = await self.get(key, job_id)
        n = 0
        if after is not None:
            prefix, _, number = after.rpartition("-")
            if prefix != event_prefix(job.id) or not (number.isascii() and number.isdigit() and len(number) < 19):
                raise InvalidRequest("after is not the id of an event of this job", param="after")
            n = int(number)
        return await self._store.jobs.events(job.id, limit, n)

    async def cancel(self, key: Key, job_id: str) -> Job:
        """Cancel a job and remove its files; the dispatcher ends its process and sweeps what that wrote meanwhile."""
        job = await self.get(key, job_id)
        cancelled = await self._store.jobs.cancel(job.id)
        if cancelled is None:
            raise JobNotCancellable
        await asyncio.to_thread(runs.discard, self._runs_dir, job.id)
        return cancelled

    async def delete(self, key: Key, job_id: str) -> None:
        """Delete a job with its events, files and model version; the dispatcher ends a running one's process."""
        job = await self.get(key, job_id)
        gone = await self._store.jobs.delete(job.id)
        self._forget(gone)
        await asyncio.to_thread(runs.discard, self._runs_dir, job.id)
        for model_id in gone:
            await asyncio.to_thread(artifacts.discard, self._models_dir, model_id)


def decode_field(name: str, raw: msgspec.Raw, kind: Any = object) -> Any:
    """Decode one field's JSON; what is wrong in it is told with the field's name before the path."""
    try:
        return decode(bytes(raw), kind)
    except InvalidRequest as error:
        inside = error.param or ""
        dot = "." if inside and not inside.startswith("[") else ""
        raise type(error)(error.message, param=name + dot + inside) from error


def event_prefix(job_id: str) -> str:
    """Return what the ids of a job's events begin with; their number follows after a dash."""
    return "ftevent-" + job_id.removeprefix("ftjob-")
