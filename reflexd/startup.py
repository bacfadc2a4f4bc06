"""Decides what must be right before the daemon listens, and puts in order what the last run has left."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import structlog

from reflexd.errors import CannotStartNow, StartupError
from reflexd.hookspecs import DefaultReflex
from reflexd.registry import artifacts, backbones, batches, llms
from reflexd.registry.artifacts import DamagedArtifact
from reflexd.registry.data_directory import DataDirectory
from reflexd.registry.files import purge, sweep, write_durably
from reflexd.schemas.worker import headline
from reflexd.store.keys import SCOPES
from reflexd.store.models import OURS, ModelVersion
from reflexd.store.store import DATABASE, Store

KEPT_ASIDE_DAYS = 7.0

log = structlog.get_logger(__name__)


def refuse_lost_database(directory: DataDirectory) -> None:
    """Raise StartupError where models or jobs lie in a directory whose database is gone."""
    if (directory.root / DATABASE).exists():
        return
    if any(any(folder.iterdir()) for folder in (directory.models, directory.runs, directory.files, directory.batches)):
        raise StartupError(
            f"{directory.root} holds models, jobs, files or batches and no {DATABASE}: restore it from a backup, or "
            "remove the folders models, runs, files and batches to begin anew"
        )


def refuse_public_bind(host: str, store: Store) -> None:
    """Raise StartupError for an address that others reach, before any key exists."""
    if store.keys.empty and not _is_loopback(host):
        raise StartupError(
            f"refusing to listen on {host} before an API key exists: run `reflexd keys create NAME` first"
        )


def listen(host: str, port: int) -> socket.socket:
    """Return the listening socket; raises CannotStartNow."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
        listening.setblocking(False)
    except OSError as error:
        raise CannotStartNow(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
    return listening


async def first_key(store: Store, directory: DataDirectory) -> None:
    """Make the first API key; in a journal it would stay for ever, so without a terminal only its path is told."""
    if not store.keys.empty:
        return
    if await store.keys.ever_made():
        log.warning("every API key is revoked: make one with `reflexd keys create NAME`")
        return
    path = directory.initial_key
    secret = await store.keys.create("admin", scopes=SCOPES)
    if sys.stderr.isatty():
        print(f"\nYour first API key, shown this once:\n\n    {secret}\n", file=sys.stderr)  # noqa: T201
        return
    path.unlink(missing_ok=True)
    write_durably(path, f"{secret}\n".encode())  # 0600 by the umask
    log.info("first API key written", path=str(path))


async def adopt_defaults(store: Store, defaults: Mapping[str, DefaultReflex], directory: DataDirectory) -> None:
    """Copy the default Reflexes that plugins register to the models, and let them answer to their names.

    Raises StartupError for one whose files do not match their manifest.
    """
    for reflex in defaults.values():
        try:
            model_id = await asyncio.to_thread(artifacts.adopt, directory.models, Path(reflex.directory))
            manifest = await asyncio.to_thread(artifacts.read_manifest, directory.models, model_id)
        except DamagedArtifact as error:
            raise StartupError(f"default Reflex {reflex.name}: {error}") from error
        version = ModelVersion(
            id=model_id,
            tenant_id=OURS,
            name=reflex.name,
            version=1,
            job_id="",
            labels=manifest.labels,
            mode=manifest.mode,
            backbone=manifest.backbone.name,
            precision=manifest.backbone.precision,
            result=headline(manifest.result),
            created_at=manifest.created_at,
        )
        store.models.add_default(version, reflex.aliases)


async def recover(store: Store, directory: DataDirectory) -> None:
    """Queue interrupted jobs again, remove what is half made or useless, put aside what the database does not know."""
    interrupted = await store.jobs.recover()
    await asyncio.to_thread(backbones.sweep, directory.backbones)
    await asyncio.to_thread(llms.sweep, directory.llm)
    aside = directory.root / "swept"
    await asyncio.to_thread(purge, aside, KEPT_ASIDE_DAYS)
    models = await asyncio.to_thread(sweep, directory.models, store.models.ids(), aside)
    orphans = await asyncio.to_thread(sweep, directory.runs, await store.jobs.live_ids(), aside)
    files = await asyncio.to_thread(sweep, directory.files, await store.files.contents(), aside)
    unknown = await asyncio.to_thread(sweep, directory.batches, await store.batches.ids(), aside)
    for batch_id, copied in (await store.batches.ended()).items():
        await asyncio.to_thread(batches.tidy, directory.batches, batch_id, copied=copied)
    if interrupted or models or orphans or files or unknown:
        log.info(
            "recovered",
            requeued=len(interrupted),
            models_aside=len(models),
            runs_aside=len(orphans),
            files_aside=len(files),
            batches_aside=len(unknown),
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
