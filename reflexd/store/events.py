"""Decides how a job's history is kept: events numbered from 1 without a gap, written with the change they tell of."""

from __future__ import annotations

import time
from typing import Any

from reflexd.store.database import Database, Transaction
from reflexd.store.records import Event, Kind, Level, encode_json, event_of


async def append(
    tx: Transaction,
    job_id: str,
    message: str,
    level: Level = "info",
    kind: Kind = "message",
    data: dict[str, Any] | None = None,
) -> None:
    """Add a job's next event, inside the transaction of what it tells."""
    await tx.run(
        "INSERT INTO events (job_id, n, created_at, level, type, message, data) VALUES "
        "(?, (SELECT COALESCE(MAX(n), 0) + 1 FROM events WHERE job_id = ?), ?, ?, ?, ?, ?)",
        (job_id, job_id, int(time.time()), level, kind, message, encode_json(data or {})),
    )


class EventStore:
    """Reads the events table; the job store writes it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, job_id: str, limit: int, after: int = 0) -> tuple[list[Event], bool]:
        """Return up to `limit` events, oldest first, with a larger n than `after`; and whether more follow."""
        rows = await self._database.rows(
            "SELECT * FROM events WHERE job_id = ? AND n > ? ORDER BY n LIMIT ?", (job_id, after, limit + 1)
        )
        return [event_of(row) for row in rows[:limit]], len(rows) > limit

    async def last_metrics(self, job_id: str) -> Event | None:
        """Return the last point of a job's loss curve."""
        row = await self._database.row(
            "SELECT * FROM events WHERE job_id = ? AND type = 'metrics' ORDER BY n DESC LIMIT 1", (job_id,)
        )
        return event_of(row) if row is not None else None
