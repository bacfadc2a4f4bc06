"""Decides the life of a job row: every status change is one guarded UPDATE whose event is written with it.

queued -> running -> succeeded | failed | cancelled; running -> queued when the daemon or the training process dies;
running -> prepared where the job asked to stop there. A terminal status never changes.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from reflexd.store.database import Database, Transaction
from reflexd.store.models import ModelStore, ModelVersion, insert_version
from reflexd.store.signals import QUEUED, Signals, job_topic

Level = Literal["info", "warn", "error"]


class Job(Struct, frozen=True, kw_only=True):
    """A row of `jobs`; times are unix seconds."""

    seq: int = 0
    id: str
    tenant_id: str
    key_id: str
    status: str = "queued"
    stage: Literal["prepare", "train"] = "prepare"
    source: str
    suffix: str | None = None
    model: str
    labels: list[str]
    mode: str = "single_label"
    auto_train: bool = True
    seed: int
    metadata: dict[str, str] | None = None
    training_file: str
    trained_examples: int = 0
    trained_tokens: int | None = None
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    attempts: int = 0
    interrupted: int = 0
    created_at: int
    started_at: int | None = None
    finished_at: int | None = None

    @property
    def served_name(self) -> str:
        """The name that its model answers to."""
        return self.suffix or self.id


class Event(Struct, frozen=True, kw_only=True):
    """A row of `events`; `n` counts from 1 within its job."""

    job_id: str
    n: int
    created_at: int
    level: Level
    type: Literal["message", "metrics"]
    message: str
    data: dict[str, Any]


_JSON = ("labels", "metadata", "result", "error")
# Least busy key first, then the one served longest ago: nobody's thousand jobs hold up somebody's first.
_NEXT_KEY = """
SELECT keys.id,
       (SELECT MIN(seq) FROM jobs WHERE status = 'queued' AND key_id = keys.id) AS head,
       (SELECT COUNT(*) FROM jobs WHERE status = 'running' AND key_id = keys.id) AS running
FROM keys WHERE head IS NOT NULL AND running < ? ORDER BY running, served, head LIMIT 1
"""


class JobStore:
    """The jobs and events tables."""

    def __init__(self, database: Database, models: ModelStore, signals: Signals) -> None:
        self._database = database
        self._models = models
        self._signals = signals

    async def insert(self, job: Job, queued_limit: int, notes: Sequence[str] = ()) -> Job | None:
        """Insert a queued job with its first event; None when its key already has `queued_limit` jobs waiting.

        Each of `notes` becomes a warning event.
        """

        async def work(tx: Transaction) -> Job | None:
            waiting = await tx.row("SELECT COUNT(*) FROM jobs WHERE status = 'queued' AND key_id = ?", (job.key_id,))
            if waiting is not None and waiting[0] >= queued_limit:
                return None
            columns = msgspec.to_builtins(job)
            del columns["seq"]
            for name in _JSON:
                columns[name] = None if columns[name] is None else msgspec.json.encode(columns[name]).decode()
            sql = f"INSERT INTO jobs ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) RETURNING *"  # noqa: S608
            row = await tx.row(sql, tuple(columns.values()))
            await _append(tx, job.id, "Job queued")
            for note in notes:
                await _append(tx, job.id, note, "warn")
            return _job(row)

        return await self._database.write(work, lambda _: self._signals.wake(QUEUED))

    async def claim(self, running_per_key: int) -> Job | None:
        """Set the next fair job to running and return it; None when nothing may run now."""

        async def work(tx: Transaction) -> Job | None:
            key = await tx.row(_NEXT_KEY, (running_per_key,))
            if key is None:
                return None
            row = await tx.row(
                "UPDATE jobs SET status = 'running', started_at = ? WHERE seq = ? AND status = 'queued' RETURNING *",
                (int(time.time()), key["head"]),
            )
            await tx.run("UPDATE keys SET served = (SELECT MAX(served) + 1 FROM keys) WHERE id = ?", (key["id"],))
            job = _job(row)
            await _append(tx, job.id, "Job running")
            return job

        return await self._database.write(work, lambda job: self._signals.wake(job_topic(job.id)) if job else None)

    async def add_event(
        self,
        job_id: str,
        message: str,
        level: Level = "info",
        kind: Literal["message", "metrics"] = "message",
        data: dict[str, Any] | None = None,
    ) -> None:
        """Append one event to a job that is still running; a late line of a job that has ended is dropped."""

        async def work(tx: Transaction) -> None:
            if await tx.row("SELECT 1 FROM jobs WHERE id = ? AND status = 'running'", (job_id,)):
                await _append(tx, job_id, message, level, kind, data)

        await self._database.write(work, lambda _: self._signals.wake(job_topic(job_id)))

    async def prepared(self, job: Job, labels: list[str], examples: int) -> Job | None:
        """Record that the rows of a running job are made; it rests as `prepared` where it asked for that."""
        status = "running" if job.auto_train else "prepared"
        return await self._change(
            job.id,
            ("running",),
            {
                "stage": "train",
                "status": status,
                "labels": msgspec.json.encode(labels).decode(),
                "trained_examples": examples,
            },
            f"{examples} training rows with {len(labels)} labels are ready",
        )

    async def succeed(
        self,
        job: Job,
        *,
        model_id: str,
        labels: list[str],
        mode: str,
        backbone: str,
        precision: str,
        examples: int,
        tokens: int,
        result: dict[str, Any],
    ) -> ModelVersion | None:
        """End a running job and register its model in one transaction; None when the job has ended meanwhile."""

        async def work(tx: Transaction) -> ModelVersion | None:
            row = await tx.row(
                "UPDATE jobs SET status = 'succeeded', finished_at = ?, labels = ?, trained_examples = ?, "
                "trained_tokens = ?, result = ? WHERE id = ? AND status = 'running' RETURNING *",
                (
                    int(time.time()),
                    msgspec.json.encode(labels).decode(),
                    examples,
                    tokens,
                    msgspec.json.encode(result).decode(),
                    job.id,
                ),
            )
            if row is None:
                return None
            version = await insert_version(
                tx,
                model_id=model_id,
                tenant_id=job.tenant_id,
                name=job.served_name,
                job_id=job.id,
                labels=labels,
                mode=mode,
                backbone=backbone,
                precision=precision,
                # Every version's row stays in memory: the scores of a thousand labels stay with the job.
                result={name: value for name, value in result.items() if name != "per_label"},
            )
            await _append(tx, job.id, f"Job succeeded: {version.name} version {version.version} is served")
            return version

        def committed(version: ModelVersion | None) -> None:
            if version is not None:
                self._models.add(version)
            self._signals.wake(job_topic(job.id), QUEUED)

        return await self._database.write(work, committed)

    async def fail(self, job_id: str, code: str, message: str, param: str | None = None) -> Job | None:
        """End a running job as failed."""
        error = msgspec.json.encode({"code": code, "message": message, "param": param}).decode()
        change = {"status": "failed", "finished_at": int(time.time()), "error": error}
        return await self._change(job_id, ("running",), change, f"Job failed: {message}", "error")

    async def cancel(self, job_id: str) -> Job | None:
        """End a job that has not ended yet; None when it already had."""
        change = {"status": "cancelled", "finished_at": int(time.time())}
        return await self._change(job_id, ("queued", "running", "prepared"), change, "Job cancelled", "warn")

    async def requeue(self, job: Job, why: str, *, died: bool) -> Job | None:
        """Put a running job back in the queue; `died` counts an attempt, else an interruption."""
        counter = "attempts" if died else "interrupted"
        change = {"status": "queued", counter: getattr(job, counter) + 1}
        return await self._change(job.id, ("running",), change, why, "warn")

    async def recover(self) -> list[Job]:
        """Queue again every job that was running when the daemon last stopped; call it once, at start."""
        rows = await self._database.rows("SELECT * FROM jobs WHERE status = 'running' ORDER BY seq")
        back = [
            await self.requeue(_job(r), "The daemon was restarted; the job is queued again", died=False) for r in rows
        ]
        return [job for job in back if job is not None]

    async def delete(self, job_id: str) -> list[str]:
        """Delete a job in any status, with its events and model version; return the model directories to remove."""

        async def work(tx: Transaction) -> list[str]:
            gone = await tx.rows("DELETE FROM model_versions WHERE job_id = ? RETURNING id", (job_id,))
            await tx.run("DELETE FROM jobs WHERE id = ?", (job_id,))
            return [row["id"] for row in gone]

        def committed(gone: list[str]) -> None:
            self._models.forget(gone)
            self._signals.wake(job_topic(job_id), QUEUED)

        return await self._database.write(work, committed)

    async def get(self, job_id: str, tenant_id: str | None = None) -> Job | None:
        """Return a job, or None where it does not exist or belongs to another tenant."""
        row = await self._database.row("SELECT * FROM jobs WHERE id = ?", (job_id,))
        return _job(row) if row is not None and tenant_id in (None, row["tenant_id"]) else None

    async def page(self, tenant_id: str | None, limit: int, before: int | None = None) -> tuple[list[Job], bool]:
        """Return up to `limit` jobs, newest first, with a smaller seq than `before`; and whether more follow."""
        where, params = ["seq < ?"], [before if before is not None else 1 << 62]  # type: list[str], list[Any]
        if tenant_id is not None:
            where.append("tenant_id = ?")
            params.append(tenant_id)
        sql = f"SELECT * FROM jobs WHERE {' AND '.join(where)} ORDER BY seq DESC LIMIT ?"  # noqa: S608
        rows = await self._database.rows(sql, (*params, limit + 1))
        return [_job(row) for row in rows[:limit]], len(rows) > limit

    async def events(self, job_id: str, limit: int, after: int = 0) -> tuple[list[Event], bool]:
        """Return up to `limit` events, oldest first, with a larger n than `after`; and whether more follow."""
        rows = await self._database.rows(
            "SELECT * FROM events WHERE job_id = ? AND n > ? ORDER BY n LIMIT ?", (job_id, after, limit + 1)
        )
        found = [msgspec.convert({**row, "data": msgspec.json.decode(row["data"])}, Event) for row in rows[:limit]]
        return found, len(rows) > limit

    async def waiting(self, tenant_id: str, name: str) -> bool:
        """Whether a job that has not ended yet will serve this name or has this id."""
        row = await self._database.row(
            "SELECT 1 FROM jobs WHERE tenant_id = ? AND (suffix = ? OR id = ?) "
            "AND status IN ('queued', 'running', 'prepared') LIMIT 1",
            (tenant_id, name, name),
        )
        return row is not None

    async def live_ids(self) -> set[str]:
        """Return the ids of all jobs whose run directory is still of use."""
        return {r["id"] for r in await self._database.rows("SELECT id FROM jobs WHERE status != 'cancelled'")}

    async def _change(
        self, job_id: str, allowed: Sequence[str], change: dict[str, Any], message: str, level: Level = "info"
    ) -> Job | None:
        async def work(tx: Transaction) -> Job | None:
            sets = ", ".join(f"{name} = ?" for name in change)
            marks = ", ".join("?" * len(allowed))
            sql = f"UPDATE jobs SET {sets} WHERE id = ? AND status IN ({marks}) RETURNING *"  # noqa: S608
            row = await tx.row(sql, (*change.values(), job_id, *allowed))
            if row is None:
                return None
            await _append(tx, job_id, message, level)
            return _job(row)

        return await self._database.write(work, lambda _: self._signals.wake(job_topic(job_id), QUEUED))


async def _append(
    tx: Transaction,
    job_id: str,
    message: str,
    level: Level = "info",
    kind: Literal["message", "metrics"] = "message",
    data: dict[str, Any] | None = None,
) -> None:
    await tx.run(
        "INSERT INTO events (job_id, n, created_at, level, type, message, data) VALUES "
        "(?, (SELECT COALESCE(MAX(n), 0) + 1 FROM events WHERE job_id = ?), ?, ?, ?, ?, ?)",
        (job_id, job_id, int(time.time()), level, kind, message, msgspec.json.encode(data or {}).decode()),
    )


def _job(row: sqlite3.Row | None) -> Job:
    assert row is not None
    given: dict[str, Any] = dict(row)
    for name in _JSON:
        given[name] = None if given[name] is None else msgspec.json.decode(given[name])
    given["auto_train"] = bool(given["auto_train"])
    return msgspec.convert(given, Job)
