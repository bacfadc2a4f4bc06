"""Decides what deleting removes, and which deletions of what is gone already are answered as if it had been there.

Some clients delete the job and then its model, some the other way round, though either deletes both (spec 7, row 11);
and the SDK repeats a DELETE whose answer was lost. A plain second DELETE by the same route stays a 404.
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
            gone: list[str] = []
            buried: dict[str, int | None] = dict.fromkeys(names)
            for job_id in job_ids:
                rows = await tx.rows("DELETE FROM model_versions WHERE job_id = ? RETURNING id, name", (job_id,))
                deleted = await tx.row("DELETE FROM jobs WHERE id = ? RETURNING seq", (job_id,))
                if deleted is None:  # somebody else has been quicker
                    continue
                buried[job_id] = deleted["seq"]
                for row in rows:
                    gone.append(row["id"])
                    left = await tx.row(
                        "SELECT 1 FROM model_versions WHERE tenant_id = ? AND name = ?", (tenant_id, row["name"])
                    )
                    if left is None:
                        buried.setdefault(row["name"])
            for name, seq in buried.items():
                await tx.run(
                    "INSERT OR REPLACE INTO tombstones (tenant_id, name, deleted_as, seq, created_at) "
                    "VALUES (?, ?, ?, ?, ?)",
                    (tenant_id, name, deleted_as, seq, int(time.time())),
                )
            return gone

        def committed(gone: list[str]) -> None:
            self._models.forget(gone)
            self._signals.wake(*map(job_topic, job_ids), QUEUED)

        return await self._database.write(work, committed)

    async def counts(self, tenant_id: str, name: str, deleted_as: DeletedAs, *, retried: bool) -> bool:
        """Whether a deletion by this route of a job id or name that is gone is to be answered as if it were not.

        It is where the other route has deleted it in the last week, and then once; and where it is sent again.
        """

        async def work(tx: Transaction) -> bool:
            row = await tx.row("SELECT deleted_as FROM tombstones WHERE tenant_id = ? AND name = ?", (tenant_id, name))
            if row is None or (row["deleted_as"] == deleted_as and not retried):
                return False
            await tx.run(
                "UPDATE tombstones SET deleted_as = ? WHERE tenant_id = ? AND name = ?", (deleted_as, tenant_id, name)
            )
            return True

        return await self._database.write(work)

    async def place(self, tenant_id: str, job_id: str) -> int | None:
        """Return where a job that was deleted in the last week stood in the list."""
        row = await self._database.row(
            "SELECT seq FROM tombstones WHERE tenant_id = ? AND name = ?", (tenant_id, job_id)
        )
        found: int | None = row["seq"] if row is not None else None
        return found

    async def forget_old(self) -> None:
        """Forget the names that were deleted longer than a week ago."""

        async def work(tx: Transaction) -> None:
            await tx.run("DELETE FROM tombstones WHERE created_at < ?", (int(time.time()) - REMEMBERED_SECONDS,))

        await self._database.write(work)
