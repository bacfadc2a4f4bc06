"""Decides how SQLite is opened, migrated, written and closed: one writer connection, one query-only reader.

synchronous=FULL: a committed job survives a power cut (measured cost 0.15 ms). The reader never checkpoints: SQLite
before 3.51.3 can corrupt a WAL that two connections checkpoint at once.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from reflexd.errors import CannotStartNow, StartupError, StorageFull

T = TypeVar("T")
KEPT_BACKUPS = 5
REFUSED = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
}
"""Primary result codes that mean: the disk says no, the program is right."""


class Transaction:
    """The writer connection inside one IMMEDIATE transaction."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def rows(self, sql: str, params: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Run one statement and return all rows that it yields."""
        return list(await self._connection.execute_fetchall(sql, params))

    async def row(self, sql: str, params: Sequence[Any] = ()) -> sqlite3.Row | None:
        """Run one statement and return its first row."""
        found = await self.rows(sql, params)
        return found[0] if found else None

    async def run(self, sql: str, params: Sequence[Any] = ()) -> None:
        """Run one statement for its effect."""
        await self._connection.execute_fetchall(sql, params)


class Database:
    """The daemon's only way to its database file."""

    def __init__(self, writer: aiosqlite.Connection, reader: aiosqlite.Connection) -> None:
        self._writer = writer
        self._reader = reader
        self._lock = asyncio.Lock()
        self._followed = asyncio.Event()
        self._followed.set()
        self._closed = False

    @classmethod
    async def open(cls, path: Path, backups: Path) -> Database:
        """Open, migrate and return.

        Raises StartupError for a database that is newer than this program or not one, CannotStartNow (exit 1, not 78)
        when the disk refuses.
        """
        async with AsyncExitStack() as opened:
            try:
                writer = await opened.enter_async_context(aiosqlite.connect(path, isolation_level=None))
                writer.row_factory = sqlite3.Row
                await writer.executescript(
                    "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; PRAGMA busy_timeout=5000"
                )
                await _migrate(writer, backups)
                path.chmod(0o600)
                reader = await opened.enter_async_context(aiosqlite.connect(path, isolation_level=None))
                reader.row_factory = sqlite3.Row
                await reader.executescript(
                    "PRAGMA query_only=ON; PRAGMA wal_autocheckpoint=0; PRAGMA busy_timeout=5000;"
                )
            except sqlite3.Error as error:
                kind = CannotStartNow if _refused(error) and path.exists() else StartupError
                raise kind(f"cannot use the database {path}: {error}") from error
            opened.pop_all()  # all went well: from here on close() ends them
        return cls(writer, reader)

    async def write(
        self, work: Callable[[Transaction], Awaitable[T]], committed: Callable[[T], None] | None = None
    ) -> T:
        """Run `work` in one IMMEDIATE transaction and commit it; any exception rolls back.

        `committed` then gets the result before any other transaction starts and before any read that could have seen
        the commit returns: it is where copies in memory follow the tables. Both are shielded: a client that hangs up
        leaves neither half done. Raises StorageFull when the disk refuses the write.
        """
        return await asyncio.shield(asyncio.ensure_future(self._transact(work, committed)))

    async def _transact(self, work: Callable[[Transaction], Awaitable[T]], committed: Callable[[T], None] | None) -> T:
        async with self._lock:
            try:
                await self._writer.execute("BEGIN IMMEDIATE")
                result = await work(Transaction(self._writer))
                if committed is not None:
                    self._followed.clear()
                await self._writer.execute("COMMIT")
                if committed is not None:
                    committed(result)
            except BaseException as error:
                if self._writer.in_transaction:
                    await self._writer.execute("ROLLBACK")
                if _refused(error):
                    raise StorageFull from error
                raise
            finally:
                self._followed.set()
            return result

    async def rows(self, sql: str, params: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Read through the query-only connection; raises StorageFull when the disk refuses."""
        try:
            found = list(await self._reader.execute_fetchall(sql, params))
        except sqlite3.Error as error:
            if _refused(error) and error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
                raise StorageFull from error
            raise
        # The writer's thread has committed before this loop hears of it: what was just read may be ahead of memory.
        await self._followed.wait()
        return found

    async def row(self, sql: str, params: Sequence[Any] = ()) -> sqlite3.Row | None:
        """Read the first row through the query-only connection."""
        found = await self.rows(sql, params)
        return found[0] if found else None

    async def close(self) -> None:
        """Close the reader first, so that the writer is the one that checkpoints; calling it again does nothing."""
        async with self._lock:
            if not self._closed:
                self._closed = True
                await self._reader.close()
                await self._writer.close()


def _refused(error: BaseException) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in REFUSED


def migrations() -> list[tuple[int, str]]:
    """Return (number, SQL) of every migration, ascending from 1 without a gap."""
    found = sorted(p.name for p in files("reflexd.store.migrations").iterdir() if p.name.endswith(".sql"))
    numbers = [int(name[:4]) for name in found]
    if numbers != list(range(1, len(numbers) + 1)):
        raise StartupError(f"the migrations in this installation are not numbered without a gap: {numbers}")
    return [(int(n[:4]), files("reflexd.store.migrations").joinpath(n).read_text(encoding="utf-8")) for n in found]


def statements(script: str) -> Iterable[str]:
    """Split a script into its statements, so that they can run inside one transaction (executescript would commit)."""
    buffer = ""
    for line in script.splitlines(keepends=True):
        buffer += line
        if sqlite3.complete_statement(buffer):
            yield buffer
            buffer = ""


async def _migrate(writer: aiosqlite.Connection, backups: Path) -> None:
    have = next(iter(await writer.execute_fetchall("PRAGMA user_version")))[0]
    steps = migrations()
    newest = len(steps)
    if have > newest:
        raise StartupError(
            f"the database has version {have} and this program knows only {newest}: install the newer reflexd again, "
            f"or restore a backup from {backups}"
        )
    if have == newest:
        return
    if have:
        await asyncio.to_thread(_make_room, backups)
        await writer.execute("VACUUM INTO ?", (str(backups / f"before-v{newest}-{time.time_ns()}.db"),))
    await writer.execute("BEGIN IMMEDIATE")
    try:
        for number, script in steps[have:]:
            for statement in statements(script):
                await writer.execute(statement)
            await writer.execute(f"PRAGMA user_version={number}")
        await writer.execute("COMMIT")
    except BaseException:
        await writer.execute("ROLLBACK")
        raise


def _make_room(backups: Path) -> None:
    backups.mkdir(mode=0o700, exist_ok=True)
    old = sorted(backups.glob("before-*.db"), key=lambda p: p.stat().st_mtime)
    for path in old[: max(0, len(old) - KEPT_BACKUPS + 1)]:
        path.unlink()
