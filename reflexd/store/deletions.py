"""Decides what deleting removes, and which deletions of what is gone already are answered as if it had been there.

Some clients delete the job and then its model, some the other way round, though either deletes both (spec 7, row 11);
and the SDK repeats a DELETE whose answer was lost. A plain second DELETE of the same thing stays a 404.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

from reflexd.store.database import Database, Transaction
from reflexd.store.models import ModelStore, ModelVersion
from reflexd.store.signals import QUEUED, Signals, job_topic

DeletedAs = Literal["job", "model"]
REMEMBERED_SECONDS = 7 * 86_400


class DeletionStore:
    """Deletes jobs and models, and remembers their names for a week."""

    def __init__(self, database: Database, models: ModelStore, signals: Signals) -> None:
        self._database = database
        self._models = models
        self._signals = signals

    async def delete_job(self, tenant_id: str, job_id: str) -> list[str]:
        """Delete a job in any status, with its events and model version; return the model directories to remove."""
        return await self._delete(tenant_id, [job_id], [], "job")

    async def delete_versions(self, tenant_id: str, name: str, versions: Sequence[ModelVersion]) -> list[str]:
        """Delete versions with the jobs that made them, as the model `name`; return the directories to remove."""
        return await self._delete(tenant_id, [version.job_id for version in versions], [name], "model")

    async def _delete(
        self, tenant_id: str, job_ids: Sequence[str], names: Sequence[str], deleted_as: DeletedAs
    ) -> list[str]:
        async def work(tx: Transaction) -> list[str]:
            gone, buried = [], [*names, *job_ids]
            for job_id in job_ids:
                rows = await tx.rows("DELETE FROM model_versions WHERE job_id = ? RETURNING id, name", (job_id,))
                await tx.run("DELETE FROM jobs WHERE id = ?", (job_id,))
                for row in rows:
                    gone.append(row["id"])
                    left = await tx.row(
                        "SELECT 1 FROM model_versions WHERE tenant_id = ? AND name = ?", (tenant_id, row["name"])
                    )
                    if left is None:
                        buried.append(row["name"])
            for name in dict.fromkeys(buried):
                await tx.run(
                    "INSERT OR REPLACE INTO tombstones (tenant_id, name, deleted_as, created_at) VALUES (?, ?, ?, ?)",
                    (tenant_id, name, deleted_as, int(time.time())),
                )
            return gone

        def committed(gone: list[str]) -> None:
            self._models.forget(gone)
            self._signals.wake(*map(job_topic, job_ids), QUEUED)

        return await self._database.write(work, committed)

    async def deleted_as(self, tenant_id: str, name: str) -> DeletedAs | None:
        """Return by which of the two routes a job id or served name was deleted in the last week."""
        row = await self._database.row(
            "SELECT deleted_as FROM tombstones WHERE tenant_id = ? AND name = ?", (tenant_id, name)
        )
        found: DeletedAs | None = row["deleted_as"] if row is not None else None
        return found

    async def forget_old(self) -> None:
        """Forget the names that were deleted longer than a week ago."""

        async def work(tx: Transaction) -> None:
            await tx.run("DELETE FROM tombstones WHERE created_at < ?", (int(time.time()) - REMEMBERED_SECONDS,))

        await self._database.write(work)
