"""Decides the life of a batch's row: every status change is one guarded UPDATE, and its end is told in the same one.

queued -> in_progress -> (finalizing ->) completed; queued -> failed where the rows are not what they must be, and
in_progress -> failed where the answers are too large or the daemon cannot go on; any that has not ended -> expired, and
by way of cancelling -> cancelled. A status that says the end never changes.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from reflexd.errors import IdempotencyKeyReused
from reflexd.schemas.webhooks import EventType
from reflexd.store.database import Database, Transaction
from reflexd.store.outbox import enqueue
from reflexd.store.records import encode_json
from reflexd.store.signals import BATCHES, DELIVERIES, Signals

IDEMPOTENT_SECONDS = 86_400
"""How long an Idempotency-Key stands for the batch it made."""
RETRY_SECONDS = 600
"""How long a request that the SDK sends again stands for the batch its first sending made."""

Kind = Literal["reflex", "openai"]
End = Literal["completed", "failed", "cancelled", "expired"]
EVENTS: dict[End, EventType] = {
    "completed": "batch.completed",
    "failed": "batch.failed",
    "cancelled": "batch.cancelled",
    "expired": "batch.expired",
}


class BatchError(Struct, frozen=True):
    """Why a batch as a whole came to nothing; `line` counts from 1."""

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Batch(Struct, frozen=True, kw_only=True):
    """A row of `batches` without its pins, which may be many; times are unix seconds."""

    seq: int = 0
    id: str
    tenant_id: str
    key_id: str
    kind: Kind
    status: str = "queued"
    endpoint: str
    options: dict[str, Any] = {}
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    output_seconds: int | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    errors: list[BatchError] | None = None
    metadata: dict[str, str] | None = None
    idempotency_key: str | None = None
    body_sha256: str = ""
    created_at: int
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    cancelling_at: int | None = None
    finished_at: int | None = None
    expires_at: int

    @property
    def copied(self) -> bool:
        """Whether files hold what came of its rows, so that its own folder is of no use."""
        return self.output_file_id is not None or self.error_file_id is not None


class Unfinished(Struct, frozen=True):
    """What decides whose turn a batch is."""

    id: str
    key_id: str
    status: str
    expires_at: int


_JSON = ("options", "errors", "metadata")
_COLUMNS = ", ".join(Batch.__struct_fields__)
_decode_pins = msgspec.json.Decoder(dict[str, str]).decode


class BatchStore:
    """The batches table."""

    def __init__(self, database: Database, signals: Signals) -> None:
        self._database = database
        self._signals = signals

    async def insert(
        self, batch: Batch, most: int, *, pins: Mapping[str, str] | None = None, retried: bool = False
    ) -> Batch | None:
        """Insert a queued batch, whose rows are durable already; None where its key has `most` that have not ended.

        `pins` holds for each model that its rows name the id of a version, where its rows have been read already.
        Returns the batch that an earlier sending of the same request made, where there is one.
        """
        columns: dict[str, Any] = msgspec.to_builtins(batch)
        del columns["seq"]
        for name in _JSON:
            columns[name] = None if columns[name] is None else encode_json(columns[name])
        columns["pins"] = encode_json(pins or {})
        names, marks = ", ".join(columns), ", ".join("?" * len(columns))
        sql = f"INSERT INTO batches ({names}) VALUES ({marks}) RETURNING {_COLUMNS}"  # noqa: S608

        async def work(tx: Transaction) -> Batch | None:
            if earlier := await _earlier(tx, batch, retried):
                return earlier
            waiting = await tx.row(
                "SELECT COUNT(*) FROM batches WHERE finished_at IS NULL AND key_id = ?", (batch.key_id,)
            )
            if waiting is not None and waiting[0] >= most:
                return None
            return _batch(await tx.row(sql, tuple(columns.values())))

        return await self._database.write(work, lambda _: self._signals.wake(BATCHES))

    async def earlier(self, batch: Batch, retried: bool) -> Batch | None:
        """Return the batch that the request of this new one has made before; raises IdempotencyKeyReused."""
        return await _earlier(self._database, batch, retried)

    async def get(self, batch_id: str, tenant_id: str | None = None, kind: Kind | None = None) -> Batch | None:
        """Return a batch; None where it does not exist, or is another tenant's or of another kind than asked for."""
        row = await self._database.row(f"SELECT {_COLUMNS} FROM batches WHERE id = ?", (batch_id,))  # noqa: S608
        if row is None or tenant_id not in (None, row["tenant_id"]) or kind not in (None, row["kind"]):
            return None
        return _batch(row)

    async def status(self, batch_id: str) -> str | None:
        """Return a batch's status; None where there is no such batch."""
        row = await self._database.row("SELECT status FROM batches WHERE id = ?", (batch_id,))
        return None if row is None else row["status"]

    async def pins(self, batch_id: str) -> dict[str, str]:
        """Return for each model that a batch names the id of the version that it meant at the start."""
        row = await self._database.row("SELECT pins FROM batches WHERE id = ?", (batch_id,))
        return {} if row is None else _decode_pins(row["pins"])

    async def page(self, tenant_id: str, kind: Kind, limit: int, before: int | None) -> tuple[list[Batch], bool]:
        """Return up to `limit` batches, newest first, with a smaller seq than `before`; and whether more follow."""
        rows = await self._database.rows(
            f"SELECT {_COLUMNS} FROM batches WHERE tenant_id = ? AND kind = ? AND seq < ? "  # noqa: S608
            "ORDER BY seq DESC LIMIT ?",
            (tenant_id, kind, 1 << 62 if before is None else before, limit + 1),
        )
        return [_batch(row) for row in rows[:limit]], len(rows) > limit

    async def unfinished(self) -> list[Unfinished]:
        """Return every batch that has not ended, oldest first."""
        rows = await self._database.rows(
            "SELECT id, key_id, status, expires_at FROM batches WHERE finished_at IS NULL ORDER BY seq"
        )
        return [msgspec.convert(dict(row), Unfinished) for row in rows]

    async def begin(self, batch_id: str, total: int, pins: Mapping[str, str] | None = None) -> None:
        """Let the work on a queued batch begin: its rows are counted and its models known, by now if not before."""
        change: dict[str, Any] = {"status": "in_progress", "in_progress_at": int(time.time()), "total": total}
        if pins is not None:
            change["pins"] = encode_json(pins)
        await self._change(batch_id, ("queued",), change)

    async def count(self, batch_id: str, completed: int, failed: int) -> None:
        """Record how many rows are done."""
        change = {"completed": completed, "failed": failed}
        await self._change(batch_id, ("in_progress", "finalizing", "cancelling"), change)

    async def finalize(self, batch_id: str) -> None:
        """Record that all rows of a batch are done and its files are being made."""
        await self._change(batch_id, ("in_progress",), {"status": "finalizing", "finalizing_at": int(time.time())})

    async def cancel(self, batch_id: str) -> Batch | None:
        """Ask for the end of a batch whose rows are not done; None for any other."""
        change = {"status": "cancelling", "cancelling_at": int(time.time())}
        return await self._change(batch_id, ("queued", "in_progress"), change, BATCHES)

    async def end(
        self,
        batch_id: str,
        end: End,
        *,
        completed: int | None = None,
        failed: int | None = None,
        output_file_id: str | None = None,
        error_file_id: str | None = None,
        errors: Sequence[BatchError] | None = None,
    ) -> Batch | None:
        """End a batch and tell of it; None where it had ended already.

        One that was to be cancelled while its last rows were done is cancelled, whatever `end` says. Without
        `completed` and `failed` its counts stay as they were told last.
        """

        async def work(tx: Transaction) -> Batch | None:
            row = await tx.row(
                "UPDATE batches SET status = CASE status WHEN 'cancelling' THEN 'cancelled' ELSE ? END, "  # noqa: S608
                "finished_at = ?, completed = COALESCE(?, completed), failed = COALESCE(?, failed), "
                "output_file_id = ?, error_file_id = ?, errors = ? "
                f"WHERE id = ? AND finished_at IS NULL RETURNING {_COLUMNS}",
                (
                    end,
                    int(time.time()),
                    completed,
                    failed,
                    output_file_id,
                    error_file_id,
                    None if errors is None else encode_json(errors),
                    batch_id,
                ),
            )
            if row is None:
                return None
            batch = _batch(row)
            await _tell(tx, batch)
            return batch

        return await self._database.write(work, lambda _: self._signals.wake(DELIVERIES))

    async def ids(self) -> set[str]:
        """Return the ids of all batches, whose folders are of use."""
        return {row["id"] for row in await self._database.rows("SELECT id FROM batches")}

    async def ended(self) -> dict[str, bool]:
        """Return the ids of the batches that have ended, and whether files hold what came of their rows."""
        rows = await self._database.rows(
            "SELECT id, output_file_id IS NOT NULL OR error_file_id IS NOT NULL AS copied FROM batches "
            "WHERE finished_at IS NOT NULL"
        )
        return {row["id"]: bool(row["copied"]) for row in rows}

    async def forget_ended(self, before: int) -> list[str]:
        """Forget the batches that had ended by this time; return their ids."""

        async def work(tx: Transaction) -> list[str]:
            rows = await tx.rows("DELETE FROM batches WHERE finished_at <= ? RETURNING id", (before,))
            return [row["id"] for row in rows]

        return await self._database.write(work)

    async def _change(
        self, batch_id: str, allowed: Sequence[str], change: dict[str, Any], *topics: str
    ) -> Batch | None:
        sets, marks = ", ".join(f"{name} = ?" for name in change), ", ".join("?" * len(allowed))
        sql = f"UPDATE batches SET {sets} WHERE id = ? AND status IN ({marks}) RETURNING {_COLUMNS}"  # noqa: S608

        async def work(tx: Transaction) -> Batch | None:
            row = await tx.row(sql, (*change.values(), batch_id, *allowed))
            return None if row is None else _batch(row)

        return await self._database.write(work, lambda _: self._signals.wake(*topics))


async def _earlier(tx: Transaction | Database, batch: Batch, retried: bool) -> Batch | None:
    """Return the batch that the same request has made before, by its Idempotency-Key or as the SDK's retry.

    Raises IdempotencyKeyReused where the key came with another body.
    """
    if batch.idempotency_key is not None:
        row = await tx.row(
            f"SELECT {_COLUMNS} FROM batches WHERE key_id = ? AND idempotency_key = ? AND kind = ? "  # noqa: S608
            "AND created_at > ? "
            "ORDER BY seq DESC LIMIT 1",
            (batch.key_id, batch.idempotency_key, batch.kind, batch.created_at - IDEMPOTENT_SECONDS),
        )
        if row is not None and row["body_sha256"] != batch.body_sha256:
            raise IdempotencyKeyReused
    elif retried:
        row = await tx.row(
            # What has ended without answers since is not what the retry asks for.
            f"SELECT {_COLUMNS} FROM batches WHERE key_id = ? AND body_sha256 = ? AND kind = ? "  # noqa: S608
            "AND created_at > ? "
            "AND status NOT IN ('failed', 'cancelling', 'cancelled', 'expired') ORDER BY seq DESC LIMIT 1",
            (batch.key_id, batch.body_sha256, batch.kind, batch.created_at - RETRY_SECONDS),
        )
    else:
        return None
    return None if row is None else _batch(row)


async def _tell(tx: Transaction, batch: Batch) -> None:
    """Tell of a batch that has just ended."""
    for end, event in EVENTS.items():
        if end == batch.status:
            data = {
                "id": batch.id,
                "object": "batch" if batch.kind == "openai" else "reflex.batch",
                "status": batch.status,
                "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
                "output_file_id": batch.output_file_id,
                "error_file_id": batch.error_file_id,
            }
            await enqueue(tx, batch.tenant_id, event, data)


def _batch(row: sqlite3.Row | None) -> Batch:
    assert row is not None
    given: dict[str, Any] = dict(row)
    for name in _JSON:
        given[name] = None if given[name] is None else msgspec.json.decode(given[name])
    return msgspec.convert(given, Batch)
