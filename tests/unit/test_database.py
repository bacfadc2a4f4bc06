"""Shows that the database migrates whole or not at all, keeps a backup, refuses a newer one, and survives a hang-up."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from reflexd.errors import StartupError, StorageFull
from reflexd.store import database
from reflexd.store.database import Database, Transaction, migrations, statements

pytestmark = pytest.mark.anyio


async def open_and_close(tmp_path: Path) -> None:
    opened = await Database.open(tmp_path / "r.db", tmp_path / "backups")
    await opened.close()


def version(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        found: int = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.close()
    return found


async def test_a_new_database_gets_every_migration_and_no_backup(tmp_path: Path) -> None:
    await open_and_close(tmp_path)
    assert version(tmp_path / "r.db") == len(migrations())
    assert not (tmp_path / "backups").exists()
    assert (tmp_path / "r.db").stat().st_mode & 0o077 == 0


async def test_an_upgrade_is_backed_up_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await open_and_close(tmp_path)
    old = migrations()
    broken = "CREATE TABLE extra (a);\nINSERT INTO extra VALUES (';');\nCREATE TABLE extra (b);\n"
    monkeypatch.setattr(database, "migrations", lambda: [*old, (len(old) + 1, broken)])
    with pytest.raises(StartupError, match="extra"):
        await open_and_close(tmp_path)
    assert version(tmp_path / "r.db") == len(old)
    monkeypatch.setattr(database, "migrations", lambda: [*old, (len(old) + 1, broken.rpartition("CREATE")[0])])
    await open_and_close(tmp_path)
    assert version(tmp_path / "r.db") == len(old) + 1
    backups = list((tmp_path / "backups").glob(f"before-v{len(old) + 1}-*.db"))
    assert backups
    assert version(backups[0]) == len(old)


async def test_a_newer_database_is_refused_with_both_versions(tmp_path: Path) -> None:
    await open_and_close(tmp_path)
    with sqlite3.connect(tmp_path / "r.db") as connection:
        connection.execute("PRAGMA user_version=999")
    connection.close()
    with pytest.raises(StartupError, match=f"version 999 .* only {len(migrations())}"):
        await open_and_close(tmp_path)


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.db").write_bytes(b"not a database at all, but long enough to be read as one" * 100)
    with pytest.raises(StartupError, match=r"r\.db"):
        await open_and_close(tmp_path)


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Database]:
    made = await Database.open(tmp_path / "r.db", tmp_path / "backups")
    yield made
    await made.close()  # or aiosqlite's threads would keep the process alive


async def test_a_failed_or_abandoned_transaction_leaves_nothing(opened: Database) -> None:
    insert = "INSERT INTO tenants (id, name, created_at) VALUES (?, ?, 0)"
    started, go_on = asyncio.Event(), asyncio.Event()
    told = []

    async def fails(tx: Transaction) -> None:
        await tx.run(insert, ("a", "a"))
        raise KeyError

    async def slow(tx: Transaction) -> str:
        await tx.run(insert, ("b", "b"))
        started.set()
        await go_on.wait()
        return "b"

    with pytest.raises(KeyError):
        await opened.write(fails)
    caller = asyncio.create_task(opened.write(slow, told.append))
    await started.wait()
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    assert caller.cancelled()
    go_on.set()

    async def nothing(_: Transaction) -> None:
        return None

    await opened.write(nothing)
    assert [r["id"] for r in await opened.rows("SELECT id FROM tenants")] == ["b"]
    assert told == ["b"]
    with pytest.raises(sqlite3.OperationalError):
        await opened.rows("INSERT INTO tenants (id, name, created_at) VALUES ('c', 'c', 0)")


async def test_no_read_returns_ahead_of_the_copies_in_memory(opened: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that sees a commit returns after the copies in memory have followed it, however late the loop hears."""
    execute = opened._writer.execute
    committed, memory = asyncio.Event(), list[int]()

    async def late(sql: str) -> object:
        result = await execute(sql)
        if sql == "COMMIT":
            committed.set()
            await asyncio.sleep(0.05)
        return result

    async def work(tx: Transaction) -> int:
        await tx.run("CREATE TABLE seen (number INTEGER)")
        await tx.run("INSERT INTO seen VALUES (7)")
        return 7

    monkeypatch.setattr(opened._writer, "execute", late)
    writing = asyncio.ensure_future(opened.write(work, memory.append))
    await committed.wait()
    assert [row["number"] for row in await opened.rows("SELECT number FROM seen")] == memory == [7]
    await writing


async def test_a_refusing_disk_is_told_apart_from_our_own_mistakes(opened: Database) -> None:
    async def too_much(tx: Transaction) -> None:
        await tx.run("INSERT INTO tenants (id, name, created_at) VALUES (?, 'x', 0)", ("x" * 3_000_000,))

    async def wrong(tx: Transaction) -> None:
        await tx.run("SELECT * FROM no_such_table")

    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        await opened.write(wrong)
    await opened._writer.execute("PRAGMA max_page_count=200")
    with pytest.raises(StorageFull):
        await opened.write(too_much)
    await opened._writer.execute("PRAGMA max_page_count=100000")
    await opened.write(too_much)


def test_statements_are_split_where_they_end() -> None:
    script = "CREATE TABLE a (x); -- one; two\nINSERT INTO a VALUES ('x;\ny');\n\n-- end\n"
    assert [s.strip()[:8] for s in statements(script)] == ["CREATE T", "INSERT I"]
