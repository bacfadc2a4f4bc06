"""Decides how the rows that a job's source has made are read, kept as a file, and replaced before training."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from reflexd.config import Limits
from reflexd.engine.dataset import BadRow, check_counts, checked
from reflexd.errors import InvalidRequest, JobNotPrepared, RowsGone, StorageFull
from reflexd.hookspecs import Example, MadeRow
from reflexd.registry import runs
from reflexd.service.decoding import field_error
from reflexd.service.files import FileService
from reflexd.service.jobs import JobService
from reflexd.store.keys import Key
from reflexd.store.records import Job
from reflexd.store.store import Store

PURPOSE = "fine-tune-results"
PIECE_BYTES = 1 << 20
_decode_row = msgspec.json.Decoder(MadeRow).decode


class MadeRows:
    """The prepared rows of jobs."""

    def __init__(self, store: Store, jobs: JobService, files: FileService, runs_dir: Path) -> None:
        self._store = store
        self._jobs = jobs
        self._files = files
        self._runs_dir = runs_dir

    async def keep(self, job: Job) -> list[str]:
        """Keep the rows of a job as a file of its tenant and return its id alone; raises StorageFull.

        A daemon that was killed right after it has made it already.
        """
        name = f"{job.id}_rows.jsonl"
        if made := await self._store.files.named(job.tenant_id, name, PURPOSE):
            return [made.id]
        incoming = self._files.blobs.new()
        try:
            await asyncio.to_thread(_copy, self._runs_dir / job.id / runs.ROWS, incoming.write)
            file = await self._files.keep(job.tenant_id, name, PURPOSE, incoming)
        except OSError as error:
            raise StorageFull from error
        finally:
            incoming.discard()
        return [file.id]

    async def read(self, key: Key, job_id: str) -> bytes:
        """Return the prepared rows of a job as JSON lines; raises RowsGone where there are none (yet, or any more)."""
        job = await self._jobs.get(key, job_id)
        if job.stage == "prepare":
            raise RowsGone
        try:
            return await asyncio.to_thread(_read, self._runs_dir / job.id)
        except FileNotFoundError as error:
            raise RowsGone from error

    async def replace(self, key: Key, job_id: str, body: bytes) -> Job:
        """Replace the rows of a job that rests at `prepared` by others, JSON lines too.

        Raises InvalidRequest that names the row, counted from 0.
        """
        job = await self._jobs.get(key, job_id)
        async with self._jobs.turn(job.id):
            return await self._replace_alone(await self._jobs.get(key, job_id), body)

    async def _replace_alone(self, job: Job, body: bytes) -> Job:
        if job.status != "prepared":
            raise JobNotPrepared
        labels, mode, count = await asyncio.to_thread(self._replace, job, body)
        edited = await self._store.jobs.edited(job.id, labels, mode, count)
        if edited is None:  # its training was started just now
            raise JobNotPrepared
        return edited

    def _replace(self, job: Job, body: bytes) -> tuple[list[str], str, int]:
        run_dir = self._runs_dir / job.id
        given = runs.read_input(run_dir)
        limits = msgspec.convert(given.limits, Limits)
        rows: list[Example] = []
        for line in filter(bytes.strip, body.splitlines()):
            place = f"rows[{len(rows)}]"
            try:
                rows.append(_decode_row(line))
            except msgspec.ValidationError as error:
                raise field_error(error, place) from error
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise InvalidRequest("This row is not valid JSON", param=place) from error
        try:
            good = list(checked(rows, given.labels, limits, given.mode))
            labels, mode, _ = check_counts(good, given.labels, limits, given.mode)
        except BadRow as error:
            raise InvalidRequest(error.message, param="rows" + error.param) from error
        mark = runs.PreparedRows(rows=len(good), labels=labels, sha256="", mode=mode)
        try:
            runs.replace_rows(run_dir, good, mark)
        except FileNotFoundError as error:  # the job was deleted just now
            raise JobNotPrepared from error
        except OSError as error:
            raise StorageFull from error
        return labels, mode, len(good)


def _copy(path: Path, write: Callable[[bytes], None]) -> None:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            write(piece)


def _read(run_dir: Path) -> bytes:
    mark = runs.read_prepared(run_dir)
    return (run_dir / (runs.ROWS if mark is None else mark.file)).read_bytes()
