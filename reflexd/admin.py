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
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from reflexd.admin_llms import LanguageModelVerbs
from reflexd.admin_webhooks import WebhookVerbs
from reflexd.config import Config
from reflexd.errors import AlreadyRunning, BackboneRefused, LanguageModelRefused, ReflexError, StartupError
from reflexd.observability import configure_logging
from reflexd.registry import artifacts, runs
from reflexd.registry.artifacts import DamagedArtifact
from reflexd.registry.data_directory import DataDirectory, cache_directory, data_directory
from reflexd.store.keys import ORDINARY_SCOPES, SCOPES, Key
from reflexd.store.store import DATABASE, Store

if TYPE_CHECKING:
    from reflexd.service.backbones import BackboneService
    from reflexd.service.llms import LanguageModelService
    from reflexd.service.webhooks import WebhookService

LINE_LIMIT = 64 << 20
LOG_PAGE = 1_000
FIRST_VERBS = ("keys.create", "backbones.add", "llm.import")
"""What may be done with a data directory before the first start, and makes it."""
ANSWER_SECONDS = {
    "backbones.add": 3600.0,
    "backbones.remove": 3600.0,
    "llm.import": 3600.0,
    "llm.remove": 3600.0,
    "llm.start": 3600.0,  # [llm] start_seconds ends it
    "llm.stop": 120.0,
    "webhooks.test": 90.0,
}
"""How long a running daemon may take to answer a verb, where not 30 seconds; a removal waits for an add to end."""
START_PATIENCE_SECONDS = 10.0
"""How long a verb waits for a daemon that holds the directory to answer."""

REFUSALS = (BackboneRefused, LanguageModelRefused, ReflexError, StartupError, msgspec.DecodeError, TypeError)
"""What a verb raises to say no, with a sentence for the operator; anything else is a fault of ours."""

Verb = Callable[..., Awaitable[Any]]
log = structlog.get_logger(__name__)


class AdminError(Exception):
    """A verb was refused; the message is the sentence that the operator reads."""


class AdminVerbs:
    """What an operator on the machine may do, across all tenants."""

    def __init__(
        self,
        store: Store,
        directory: DataDirectory,
        backbones: Callable[[], BackboneService],
        webhooks: Callable[[], WebhookService],
        llms: Callable[[], LanguageModelService],
    ) -> None:
        """The last three give their service; making one loads plugins or more, which the other verbs can do without."""
        self._store = store
        self._directory = directory
        self._backbones = backbones
        self.table: dict[str, Verb] = {
            "keys.create": self.create_key,
            "keys.list": self.list_keys,
            "keys.revoke": self.revoke_key,
            "jobs.list": self.list_jobs,
            "jobs.show": self.show_job,
            "jobs.logs": self.job_logs,
            "jobs.report": self.report_job,
            "jobs.cancel": self.cancel_job,
            "models.list": self.list_models,
            "backbones.add": self.add_backbone,
            "backbones.list": self.list_backbones,
            "backbones.remove": self.remove_backbone,
            **WebhookVerbs(store, webhooks).table,
            **LanguageModelVerbs(llms).table,
        }

    async def create_key(self, name: str, tenant: str | None = None, scopes: list[str] | None = None) -> str:
        """Make a key and return its secret."""
        for given in (name, tenant):
            if given is not None and (not given.strip() or not given.isprintable() or len(given) > 64):
                raise AdminError("names of keys and tenants have 1 to 64 printable characters")
        unknown = set(scopes or ()) - set(SCOPES)
        if unknown:
            raise AdminError(f"unknown scope {', '.join(sorted(unknown))}; there are {', '.join(SCOPES)}")
        if tenant is None and name in (await self._store.keys.tenants()).values():
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

    async def report_job(self, job_id: str) -> dict[str, Any]:
        """Return a job's row, all its events, and its model's manifest where there is one that can be read."""
        job = await self.show_job(job_id)
        events: list[dict[str, Any]] = []
        while page := await self.job_logs(job_id, events[-1]["n"] if events else 0):
            events += page
        version = self._store.models.of_job(job["tenant_id"], job_id)
        manifest = None
        if version is not None:
            with contextlib.suppress(DamagedArtifact):
                read = await asyncio.to_thread(artifacts.read_manifest, self._directory.models, version.id)
                manifest = {name: value for name, value in msgspec.to_builtins(read).items() if name != "result"}
        return {"job": job, "events": events, "manifest": manifest}

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

    async def add_backbone(
        self, paths: list[str], name: str = "", pooling: str = "", cpu: bool = False
    ) -> dict[str, Any]:
        """Add the encoder or decoder that lies in these paths."""
        return await self._backbones().add(paths, name, pooling, cpu)

    async def list_backbones(self) -> list[dict[str, Any]]:
        """List the sentence encoders of this machine."""
        return await self._backbones().rows()

    async def remove_backbone(self, name: str) -> dict[str, Any]:
        """Remove an added sentence encoder that nothing needs."""
        return await self._backbones().remove(name)


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
    except (AdminError, *REFUSALS) as error:
        answer = {"error": str(error)}
    except Exception as error:
        log.error("admin verb failed", exc_info=error)
        answer = {"error": "the daemon failed to do this; its log says why"}
    return msgspec.json.encode(answer) + b"\n"


def call(config: Config, verb: str, **arguments: Any) -> Any:
    """Run a verb: in the running daemon, or here under the directory's lock when none runs.

    `config` names the directory. Raises AdminError with the reason, StartupError where the directory cannot be used,
    AlreadyRunning where a daemon holds it and does not answer.
    """
    directory = data_directory(config)
    line = msgspec.json.encode({"verb": verb, **arguments}) + b"\n"
    deadline = time.monotonic() + START_PATIENCE_SECONDS
    while True:
        try:
            answer = _ask(directory.socket, line, ANSWER_SECONDS.get(verb, 30.0))
            break
        except OSError:
            if verb not in FIRST_VERBS and not (directory.root / DATABASE).exists():
                raise AdminError(f"{directory.root} holds no data of reflexd: name another with --data-dir") from None
        try:
            answer = asyncio.run(_run_here(config, directory, line))
            break
        except AlreadyRunning:  # a daemon holds the directory and does not answer: it is starting, or another verb runs
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)
    if "error" in answer:
        raise AdminError(answer["error"])
    return answer["result"]


def _ask(path: Path, request: bytes, seconds: float) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX) as connection, _short(path) as short:
        connection.settimeout(seconds)
        connection.connect(short)
        connection.sendall(request)
        with connection.makefile("rb") as answers:
            line = answers.readline()
    if not line:
        raise AdminError("the daemon ended before it had answered: see its log")
    answer: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
    return answer


async def _run_here(config: Config, directory: DataDirectory, line: bytes) -> dict[str, Any]:
    configure_logging("warning", config.log.format)  # what is told goes to stderr, and the verb's answer to stdout
    directory.claim()
    try:
        store = await Store.open(directory.root)
        try:
            verbs = AdminVerbs(
                store,
                directory,
                lambda: _open_backbones(config, directory, store),
                lambda: _open_webhooks(config, store),
                lambda: _open_llms(config, directory),
            )
            answer = await _run_line(verbs, line)
        finally:
            await store.close()
    finally:
        directory.release()
    decoded: dict[str, Any] = msgspec.json.decode(answer, type=dict[str, Any])
    return decoded


def _open_backbones(config: Config, directory: DataDirectory, store: Store) -> BackboneService:
    from reflexd.engine.backbones import Backbones  # here: the other verbs need neither numpy nor the plugins
    from reflexd.plugins import PluginManager
    from reflexd.service.backbones import BackboneService

    registered = PluginManager(config.plugins.allow).checkpoints
    present = Backbones(registered, directory.backbones, cache_directory(config))
    return BackboneService(store, directory, present, config.training.backbone, config.backbone.precision)


def _open_webhooks(config: Config, store: Store) -> WebhookService:
    from reflexd.egress.door import Door
    from reflexd.egress.sender import Sender
    from reflexd.plugins import PluginManager
    from reflexd.service.webhooks import WebhookService

    door = Door(config.network)
    sender = Sender(PluginManager(config.plugins.allow).transports, door, config.webhooks.timeout_seconds)
    return WebhookService(store, sender, config.webhooks.endpoints_per_tenant)


def _open_llms(config: Config, directory: DataDirectory) -> LanguageModelService:
    from reflexd.service.llms import LanguageModelService

    return LanguageModelService(directory.llm, config.llm)


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield another name of the socket: a socket's path may have 107 bytes only, and a data directory's more."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
