"""Decides what is remembered of a file: its owner, name, purpose, size and the hash under which its content lies."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from reflexd.store.database import Database, Transaction

Order = Literal["asc", "desc"]

REMEMBERED_SECONDS = 3_600
"""For how long a deleted file's id is known; the SDK sends a request again within minutes."""

BLOCK_BYTES = 4_096
"""A file counts as many bytes at least: it takes a block of the disk, and a row here, however little it holds."""


class File(Struct, frozen=True, kw_only=True):
    """A row of `files`; times are unix seconds."""

    seq: int = 0
    id: str
    tenant_id: str
    filename: str
    purpose: str
    bytes: int
    sha256: str
    created_at: int
    expires_at: int | None = None

    @property
    def expired(self) -> bool:
        """Whether it is to be treated as gone, though its row may still be there."""
        return self.expires_at is not None and self.expires_at <= time.time()


class Taken(Struct, frozen=True):
    """How many files a tenant has, and how many bytes these count together."""

    files: int
    bytes: int


_TAKEN = "SELECT COUNT(*) AS files, COALESCE(SUM(MAX(bytes, ?)), 0) AS bytes FROM files WHERE tenant_id = ?"


def _taken(row: sqlite3.Row | None) -> Taken:
    return msgspec.convert(dict(row or ()), Taken)


class FileStore:
    """The files table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def insert(self, file: File, check: Callable[[Taken], None] | None = None) -> None:
        """Remember a new file, whose content is durable already.

        `check` gets what the tenant has without it, and raises where it is too much: no other file can come between.
        """
        columns: dict[str, Any] = msgspec.to_builtins(file)
        del columns["seq"]
        sql = f"INSERT INTO files ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608

        async def work(tx: Transaction) -> None:
            if check is not None:
                check(_taken(await tx.row(_TAKEN, (BLOCK_BYTES, file.tenant_id))))
            await tx.run(sql, tuple(columns.values()))

        await self._database.write(work)

    async def get(self, tenant_id: str, file_id: str) -> File | None:
        """Return a file of the tenant; None for another's, and for one that has expired."""
        row = await self._database.row("SELECT * FROM files WHERE id = ? AND tenant_id = ?", (file_id, tenant_id))
        file = msgspec.convert(dict(row), File) if row is not None else None
        return None if file is None or file.expired else file

    async def named(self, tenant_id: str, filename: str, purpose: str) -> File | None:
        """Return the tenant's latest file of this name and purpose."""
        row = await self._database.row(
            "SELECT * FROM files WHERE tenant_id = ? AND filename = ? AND purpose = ? ORDER BY seq DESC LIMIT 1",
            (tenant_id, filename, purpose),
        )
        return msgspec.convert(dict(row), File) if row is not None else None

    async def page(
        self, tenant_id: str, limit: int, after: int | None, order: Order, purposes: Sequence[str]
    ) -> tuple[list[File], bool]:
        """Return up to `limit` files of these purposes behind the one with seq `after`; and whether more follow."""
        sign, start = ("<", 1 << 62) if order == "desc" else (">", 0)
        rows = await self._database.rows(
            f"SELECT * FROM files WHERE tenant_id = ? AND seq {sign} ? "  # noqa: S608
            f"AND purpose IN ({', '.join('?' * len(purposes))}) "
            f"AND COALESCE(expires_at, ?) > ? ORDER BY seq {order} LIMIT ?",
            (tenant_id, start if after is None else after, *purposes, 1 << 62, int(time.time()), limit + 1),
        )
        return [msgspec.convert(dict(row), File) for row in rows[:limit]], len(rows) > limit

    async def taken(self, tenant_id: str) -> Taken:
        """Return what the tenant has."""
        return _taken(await self._database.row(_TAKEN, (BLOCK_BYTES, tenant_id)))

    async def delete(self, tenant_id: str, file_id: str) -> File | None:
        """Delete a file and return it; None where the tenant has none of this id."""

        async def work(tx: Transaction) -> File | None:
            row = await tx.row("DELETE FROM files WHERE id = ? AND tenant_id = ? RETURNING *", (file_id, tenant_id))
            if row is None:
                return None
            await tx.run(
                "INSERT INTO deleted_files (tenant_id, id, purpose, deleted_at) VALUES (?, ?, ?, ?)",
                (tenant_id, file_id, row["purpose"], int(time.time())),
            )
            return msgspec.convert(dict(row), File)

        return await self._database.write(work)

    async def was_deleted(self, tenant_id: str, file_id: str, purposes: Sequence[str]) -> bool:
        """Whether the tenant has deleted a file of this id and one of these purposes in the last hour."""
        row = await self._database.row(
            "SELECT purpose FROM deleted_files WHERE tenant_id = ? AND id = ? AND deleted_at > ?",
            (tenant_id, file_id, int(time.time()) - REMEMBERED_SECONDS),
        )
        return row is not None and row["purpose"] in purposes

    async def delete_expired(self) -> set[str]:
        """Forget the files whose time is over, and deleted ones after an hour; return the hashes of their contents."""

        async def work(tx: Transaction) -> set[str]:
            now = int(time.time())
            await tx.run("DELETE FROM deleted_files WHERE deleted_at <= ?", (now - REMEMBERED_SECONDS,))
            rows = await tx.rows("DELETE FROM files WHERE expires_at <= ? RETURNING sha256", (now,))
            return {row["sha256"] for row in rows}

        return await self._database.write(work)

    async def contents(self) -> set[str]:
        """Return the hashes of all contents that a file has."""
        return {row["sha256"] for row in await self._database.rows("SELECT DISTINCT sha256 FROM files")}

    async def has_content(self, sha256: str) -> bool:
        """Whether any file, of whichever tenant, has this content."""
        return await self._database.row("SELECT 1 FROM files WHERE sha256 = ? LIMIT 1", (sha256,)) is not None
