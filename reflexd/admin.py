"""Decides how the command line reaches a data directory: through admin.sock (0600) while a daemon runs, else itself.

One table of verbs serves both ways, so a verb does the same with and without a daemon. A request and its answer are one
line of JSON each.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import structlog

from reflexd.errors import AlreadyRunning, ReflexError
from reflexd.registry import runs
from reflexd.registry.data_directory import DataDirectory
from reflexd.store.keys import ORDINARY_SCOPES, SCOPES, Key
from reflexd.store.store import DATABASE, Store

LINE_LIMIT = 64 << 20
LOG_PAGE = 1_000
START_PATIENCE_SECONDS = 10.0
"""How long a verb waits for a daemon that holds the directory to answer."""

Verb = Callable[..., Awaitable[Any]]
log = structlog.get_logger(__name__)


class AdminError(Exception):
    """A verb was refused; the message is the sentence that the operator reads."""


class AdminVerbs:
    """What an operator on the machine may do, across all tenants."""

    def __init__(self, store: Store, directory: DataDirectory) -> None:
        self._store = store
        self._directory = directory
        self.table: dict[str, Verb] = {
            "keys.create": self.create_key,
            "keys.list": self.list_keys,
            "keys.revoke": self.revoke_key,
            "jobs.list": self.list_jobs,
            "jobs.show": self.show_job,
            "jobs.logs": self.job_logs,
            "jobs.cancel": self.cancel_job,
            "models.list": self.list_models,
        }

    async def create_key(self, name: str, tenant: str | None = None, scopes: list[str] | None = None) -> str:
        """Make a key and return its secret."""
        for given in (name, tenant):
            if given is not None and (not given.strip() or not given.isprintable() or len(given) > 64):
                raise AdminError("names of keys and tenants have 1 to 64 printable characters")
        unknown = set(scopes or ()) - set(SCOPES)
        if unknown:
            raise AdminError(f"unknown scope {', '.join(sorted(unknown))}; there are {', '.join(SCOPES)}")
        if tenant is None and await self._store.keys.tenant_exists(name):
            raise AdminError(f"there is a tenant {name} already: use --tenant {name} for one more key of it")
        return await self._store.keys.create(name, tenant, scopes or ORDINARY_SCOPES)

    async def list_keys(self) -> list[Key]:
        """List all keys, revoked ones too."""
        return await self._store.keys.all()

    async def revoke_key(self, which: str) -> Key:
        """Revoke the key with this name, id or hint."""
        key = await self._store.keys.revoke(which)
        if key is None:
            raise AdminError(f"{which} names no single key in use: see `reflexd keys list`, and use the id")
        return key

    async def list_jobs(self, limit: int = 20) -> list[dict[str, Any]]:
        """List the newest jobs of all tenants."""
        jobs, _ = await self._store.jobs.page(None, limit)
        return [msgspec.to_builtins(job) for job in jobs]

    async def show_job(self, job_id: str) -> dict[str, Any]:
        """Show one job's row."""
        job = await self._store.jobs.get(job_id)
        if job is None:
            raise AdminError(f"there is no job {job_id}")
        row: dict[str, Any] = msgspec.to_builtins(job)
        return row

    async def job_logs(self, job_id: str, after: int = 0) -> list[dict[str, Any]]:
        """Return a job's events after the event with number `after`."""
        await self.show_job(job_id)
        events, _ = await self._store.events.page(job_id, LOG_PAGE, after)
        return [msgspec.to_builtins(event) for event in events]

    async def cancel_job(self, job_id: str) -> dict[str, Any]:
        """Cancel a job; a running daemon ends its process and removes its files."""
        before = await self.show_job(job_id)
        job = await self._store.jobs.cancel(job_id)
        if job is None:
            raise AdminError(f"job {job_id} has already ended as {before['status']}")
        await asyncio.to_thread(runs.discard, self._directory.runs, job_id)
        row: dict[str, Any] = msgspec.to_builtins(job)
        return row

    async def list_models(self) -> list[dict[str, Any]]:
        """List the served names of all tenants with their latest version."""
        return [
            {**msgspec.to_builtins(versions[-1]), "versions": [v.version for v in versions]}
            for versions in self._store.models.names()
        ]


async def serve_admin(verbs: AdminVerbs, path: Path) -> asyncio.Server:
    """Listen on the socket; only the data directory's owner can connect to it."""
    path.unlink(missing_ok=True)
    old = os.umask(0o177)
    try:
        with _short(path) as short:
            bound = socket.socket(socket.AF_UNIX)
            bound.bind(short)
    finally:
        os.umask(old)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(await _run_line(verbs, await reader.readline()))
            await writer.drain()
        writer.close()

    return await asyncio.start_unix_server(answer, sock=bound, limit=LINE_LIMIT)


async def _run_line(verbs: AdminVerbs, line: bytes) -> bytes:
    try:
        request = msgspec.json.decode(line, type=dict[str, Any])
        verb = verbs.table.get(request.pop("verb", ""))
        if verb is None:
            raise AdminError("the running daemon does not know this verb: is it another version of reflexd?")
        answer = {"result": await verb(**request)}
    except (AdminError, ReflexError, msgspec.DecodeError, TypeError) as error:
        answer = {"error": str(error)}
    except Exception as error:
        log.error("admin verb failed", exc_info=error)
        answer = {"error": "the daemon failed to do this; its log says why"}
    return msgspec.json.encode(answer) + b"\n"


def call(directory: DataDirectory, verb: str, **arguments: Any) -> Any:
    """Run a verb: in the running daemon, or here under the directory's lock when none runs.

    Raises AdminError with the reason, StartupError where the directory cannot be used, AlreadyRunning where a daemon
    holds it and does not answer.
    """
    line = msgspec.json.encode({"verb": verb, **arguments}) + b"\n"
    deadline = time.monotonic() + START_PATIENCE_SECONDS
    while True:
        try:
            answer = _ask(directory.socket, line)
            break
        except OSError:
            if verb != "keys.create" and not (directory.root / DATABASE).exists():
                raise AdminError(f"{directory.root} holds no data of reflexd: name another with --data-dir") from None
        try:
            answer = asyncio.run(_run_here(directory, line))
            break
        except AlreadyRunning:  # a daemon holds the directory and does not answer: it is starting, or another verb runs
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)
    if "error" in answer:
        raise AdminError(answer["error"])
    return answer["result"]


def _ask(path: Path, request: bytes) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection, _short(path) as short:
        connection.settimeout(30)
        connection.connect(short)
        connection.sendall(request)
        with connection.makefile("rb") as answers:
            line = answers.readline()
    if not line:
        raise AdminError("the daemon ended before it had answered: see its log")
    answer: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
    return answer


async def _run_here(directory: DataDirectory, line: bytes) -> dict[str, Any]:
    directory.claim()
    try:
        store = await Store.open(directory.root)
        try:
            answer = await _run_line(AdminVerbs(store, directory), line)
        finally:
            await store.close()
    finally:
        directory.release()
    decoded: dict[str, Any] = msgspec.json.decode(answer, type=dict[str, Any])
    return decoded


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield another name of the socket: a socket's path may have 107 bytes only, and a data directory's more."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
