"""Decides the life of a job row: every status change is one guarded UPDATE whose event is written with it.

queued -> running -> succeeded | failed | cancelled; running -> queued when the daemon or the training process dies;
running -> prepared where the job asked to stop there, and prepared -> queued when it is told to train. `paused` keeps a
queued job from being claimed, and tells the dispatcher to end a running one, whose outcome no longer counts. A
terminal status never changes. Each claim has a number, and what a run records counts only while its claim stands: a run
that was given up cannot speak for the one that followed it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from reflexd.errors import IdempotencyKeyReused
from reflexd.schemas.worker import headline
from reflexd.store.database import Database, Transaction
from reflexd.store.events import append
from reflexd.store.models import ModelStore, ModelVersion, insert_version
from reflexd.store.outbox import tell_of_job
from reflexd.store.records import ACTIVE, Job, Kind, Level, columns_of, encode_json, job_of
from reflexd.store.signals import DELIVERIES, QUEUED, Signals, job_topic

IDEMPOTENT_SECONDS = 86_400
"""How long an Idempotency-Key stands for the job it made."""
RETRY_SECONDS = 600
"""How long a create that the SDK sends again, word for word, stands for the job its first sending made (spec 3.6)."""


# Least busy key first, then the one served longest ago: nobody's thousand jobs hold up somebody's first.
_NEXT_KEY = """
SELECT keys.id,
       (SELECT MIN(seq) FROM jobs WHERE status = 'queued' AND paused = 0 AND key_id = keys.id
           AND (stage <> 'prepare' OR source NOT IN (SELECT value FROM json_each(?)))) AS head,
       (SELECT COUNT(*) FROM jobs WHERE status = 'running' AND key_id = keys.id) AS running
FROM keys WHERE head IS NOT NULL AND running < ? ORDER BY running, served, head LIMIT 1
"""


class JobStore:
    """The jobs and events tables."""

    def __init__(self, database: Database, models: ModelStore, signals: Signals) -> None:
        self._database = database
        self._models = models
        self._signals = signals

    async def insert(
        self, job: Job, queued_limit: int, notes: Sequence[str] = (), *, retried: bool = False
    ) -> Job | None:
        """Insert a queued job with its first event; None when its key already has `queued_limit` jobs waiting.

        Returns the job that an earlier sending of the same request made, where there is one. Each of `notes` becomes a
        warning event.
        """

        async def work(tx: Transaction) -> Job | None:
            if earlier := await _earlier(tx, job, retried):
                return earlier
            waiting = await tx.row("SELECT COUNT(*) FROM jobs WHERE status = 'queued' AND key_id = ?", (job.key_id,))
            if waiting is not None and waiting[0] >= queued_limit:
                return None
            columns = columns_of(job)
            sql = f"INSERT INTO jobs ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))}) RETURNING *"  # noqa: S608
            row = await tx.row(sql, tuple(columns.values()))
            await append(tx, job.id, "Job queued")
            for note in notes:
                await append(tx, job.id, note, "warn")
            return job_of(row)

        return await self._database.write(work, lambda _: self._signals.wake(QUEUED))

    async def earlier(self, job: Job, retried: bool) -> Job | None:
        """Return the job that the request of this new one has made before; raises IdempotencyKeyReused."""
        return await _earlier(self._database, job, retried)

    async def claim(self, running_per_key: int, except_sources: Sequence[str] = ()) -> Job | None:
        """Set the next fair job to running and return it; None when nothing may run now.

        Jobs whose rows are still to be made by one of `except_sources` are left waiting.
        """

        async def work(tx: Transaction) -> Job | None:
            key = await tx.row(_NEXT_KEY, (encode_json(list(except_sources)), running_per_key))
            if key is None:
                return None
            row = await tx.row(
                "UPDATE jobs SET status = 'running', claims = claims + 1, started_at = ? "
                "WHERE seq = ? AND status = 'queued' AND paused = 0 RETURNING *",
                (int(time.time()), key["head"]),
            )
            await tx.run("UPDATE keys SET served = (SELECT MAX(served) + 1 FROM keys) WHERE id = ?", (key["id"],))
            job = job_of(row)
            await append(tx, job.id, "Job running")
            return job

        return await self._database.write(work, lambda job: self._signals.wake(job_topic(job.id)) if job else None)

    async def add_event(
        self,
        job: Job,
        message: str,
        level: Level = "info",
        kind: Kind = "message",
        data: dict[str, Any] | None = None,
    ) -> None:
        """Append one event to a claimed job that is still running; a late line of a run that is over is dropped."""

        async def work(tx: Transaction) -> None:
            running = "SELECT 1 FROM jobs WHERE id = ? AND claims = ? AND status = 'running' AND paused = 0"
            if await tx.row(running, (job.id, job.claims)):
                await append(tx, job.id, message, level, kind, data)

        await self._database.write(work, lambda _: self._signals.wake(job_topic(job.id)))

    async def prepared(
        self, job: Job, labels: list[str], mode: str, examples: int, result_files: Sequence[str] = ()
    ) -> Job | None:
        """Record that the rows of a running job are made; it rests as `prepared` where it asked for that."""
        status = "running" if job.auto_train else "prepared"
        return await self._change(
            job.id,
            ("running",),
            {
                "stage": "train",
                "status": status,
                "labels": encode_json(labels),
                "mode": mode,
                "trained_examples": examples,
                "result_files": encode_json(list(result_files)),
            },
            f"{examples} training rows with {len(labels)} labels are ready",
            claim=job.claims,
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
                "trained_tokens = ?, result = ? WHERE id = ? AND claims = ? AND status = 'running' AND paused = 0 "
                "RETURNING *",
                (
                    int(time.time()),
                    encode_json(labels),
                    examples,
                    tokens,
                    encode_json(result),
                    job.id,
                    job.claims,
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
                result=headline(result),
            )
            await append(tx, job.id, f"Job succeeded: {version.name} version {version.version} is served")
            await tell_of_job(tx, job_of(row))
            return version

        def committed(version: ModelVersion | None) -> None:
            if version is not None:
                self._models.add(version)
            self._signals.wake(job_topic(job.id), QUEUED, DELIVERIES)

        return await self._database.write(work, committed)

    async def fail(self, job: Job, code: str, message: str, param: str | None = None) -> Job | None:
        """End a claimed job as failed."""
        error = encode_json({"code": code, "message": message, "param": param})
        change = {"status": "failed", "finished_at": int(time.time()), "error": error}
        return await self._change(job.id, ("running",), change, f"Job failed: {message}", "error", claim=job.claims)

    async def cancel(self, job_id: str) -> Job | None:
        """End a job that has not ended yet; None when it already had."""
        change = {"status": "cancelled", "paused": 0, "finished_at": int(time.time())}
        return await self._change(job_id, ACTIVE, change, "Job cancelled", "warn", paused_too=True)

    async def pause(self, job_id: str) -> Job | None:
        """Keep a queued job from running, and have the dispatcher put a running one back; None for any other."""
        return await self._change(job_id, ("queued", "running"), {"paused": 1}, "Job paused")

    async def resume(self, job_id: str) -> Job | None:
        """Let a paused job go on; None when the job is not paused."""

        async def work(tx: Transaction) -> Job | None:
            row = await tx.row("UPDATE jobs SET paused = 0 WHERE id = ? AND paused = 1 RETURNING *", (job_id,))
            if row is None:
                return None
            await append(tx, job_id, "Job resumed")
            return job_of(row)

        return await self._database.write(work, lambda _: self._signals.wake(job_topic(job_id), QUEUED))

    async def train(self, job_id: str) -> Job | None:
        """Queue the training of a job that rests at `prepared`; None for any other."""
        return await self._change(job_id, ("prepared",), {"status": "queued"}, "Training queued")

    async def edited(self, job_id: str, labels: list[str], mode: str, examples: int) -> Job | None:
        """Record that the rows of a job that rests at `prepared` were replaced; None for any other."""
        change = {"labels": encode_json(labels), "mode": mode, "trained_examples": examples}
        said = f"The rows were replaced: {examples} with {len(labels)} labels"
        return await self._change(job_id, ("prepared",), change, said)

    async def requeue(self, job: Job, why: str, *, died: bool) -> Job | None:
        """Put a running job back in the queue; `died` counts an attempt, else an interruption."""
        counter = "attempts" if died else "interrupted"
        change = {"status": "queued", counter: getattr(job, counter) + 1}
        return await self._change(job.id, ("running",), change, why, "warn", paused_too=True, claim=job.claims)

    async def put_aside(self, job: Job) -> Job | None:
        """Put a claimed job back in the queue whose run was ended because it was paused, which is nobody's fault."""
        said = "The training process has ended; the job goes on when it is resumed"
        change = {"status": "queued"}
        return await self._change(job.id, ("running",), change, said, paused_too=True, claim=job.claims)

    async def recover(self) -> list[Job]:
        """Queue again every job that was running when the daemon last stopped; call it once, at start."""
        rows = await self._database.rows("SELECT * FROM jobs WHERE status = 'running' ORDER BY seq")
        back = [
            await self.requeue(job_of(r), "The daemon was restarted; the job is queued again", died=False) for r in rows
        ]
        return [job for job in back if job is not None]

    async def get(self, job_id: str, tenant_id: str | None = None) -> Job | None:
        """Return a job, or None where it does not exist or belongs to another tenant."""
        row = await self._database.row("SELECT * FROM jobs WHERE id = ?", (job_id,))
        return job_of(row) if row is not None and tenant_id in (None, row["tenant_id"]) else None

    async def page(
        self,
        tenant_id: str | None,
        limit: int,
        before: int | None = None,
        metadata: Mapping[str, str] | None = None,
        *,
        bare: bool = False,
    ) -> tuple[list[Job], bool]:
        """Return up to `limit` jobs, newest first, with a smaller seq than `before`; and whether more follow.

        `metadata` restricts them to jobs that carry all of these pairs, `bare` to jobs that carry none at all.
        """
        where, params = ["seq < ?"], [before if before is not None else 1 << 62]  # type: list[str], list[Any]
        if tenant_id is not None:
            where.append("tenant_id = ?")
            params.append(tenant_id)
        if bare:
            where.append("metadata IS NULL")
        for pair in (metadata or {}).items():
            where.append("EXISTS (SELECT 1 FROM json_each(jobs.metadata) AS m WHERE m.key = ? AND m.value = ?)")
            params.extend(pair)
        sql = f"SELECT * FROM jobs WHERE {' AND '.join(where)} ORDER BY seq DESC LIMIT ?"  # noqa: S608
        rows = await self._database.rows(sql, (*params, limit + 1))
        return [job_of(row) for row in rows[:limit]], len(rows) > limit

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
        self,
        job_id: str,
        allowed: Sequence[str],
        change: dict[str, Any],
        message: str,
        level: Level = "info",
        *,
        paused_too: bool = False,
        claim: int | None = None,
    ) -> Job | None:
        """Change a job whose status is allowed; a paused one only where that is asked for.

        With `claim`, only as long as that claim stands.
        """

        async def work(tx: Transaction) -> Job | None:
            sets = ", ".join(f"{name} = ?" for name in change)
            marks = ", ".join("?" * len(allowed))
            unpaused = "" if paused_too else "AND paused = 0"
            where = f"id = ? AND status IN ({marks}) {unpaused} AND claims = COALESCE(?, claims)"
            sql = f"UPDATE jobs SET {sets} WHERE {where} RETURNING *"  # noqa: S608
            row = await tx.row(sql, (*change.values(), job_id, *allowed, claim))
            if row is None:
                return None
            await append(tx, job_id, message, level)
            job = job_of(row)
            if job.finished_at is not None:
                await tell_of_job(tx, job)
            return job

        return await self._database.write(work, lambda _: self._signals.wake(job_topic(job_id), QUEUED, DELIVERIES))


async def _earlier(tx: Transaction | Database, job: Job, retried: bool) -> Job | None:
    """Return the job that the same request has made before, by its Idempotency-Key or as the SDK's retry.

    Raises IdempotencyKeyReused where the key came with another body.
    """
    if job.idempotency_key is not None:
        row = await tx.row(
            "SELECT * FROM jobs WHERE key_id = ? AND idempotency_key = ? AND created_at > ? ORDER BY seq DESC LIMIT 1",
            (job.key_id, job.idempotency_key, job.created_at - IDEMPOTENT_SECONDS),
        )
        if row is not None and row["body_sha256"] != job.body_sha256:
            raise IdempotencyKeyReused
    elif retried:
        row = await tx.row(
            # What has ended without a model since is not what the retry asks for.
            "SELECT * FROM jobs WHERE key_id = ? AND created_at > ? AND body_sha256 = ? "
            "AND status NOT IN ('cancelled', 'failed') ORDER BY seq DESC LIMIT 1",
            (job.key_id, job.created_at - RETRY_SECONDS, job.body_sha256),
        )
    else:
        return None
    return job_of(row) if row is not None else None
