"""Decides what the operator may do with sentence encoders: add, list and remove them; what is in use stays."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog

from reflexd.engine.backbone import AddSpec, run_child
from reflexd.engine.backbones import Backbones, size_of
from reflexd.errors import BackboneRefused
from reflexd.registry import artifacts, backbones, runs
from reflexd.registry.artifacts import DamagedArtifact
from reflexd.registry.data_directory import DataDirectory
from reflexd.store.store import Store

POOLINGS = ("", "mean", "cls")

log = structlog.get_logger(__name__)


class BackboneService:
    """The encoders of this machine; all errors are BackboneRefused."""

    def __init__(
        self, store: Store, directory: DataDirectory, present: Backbones, configured: str, precision: str
    ) -> None:
        """`configured` is the name in `[training] backbone`; what is added is exported in `precision`."""
        self._store = store
        self._directory = directory
        self._present = present
        self._configured = configured
        self._precision = precision
        self._turn = asyncio.Lock()

    async def add(self, paths: Sequence[str], name: str = "", pooling: str = "", cpu: bool = False) -> dict[str, Any]:
        """Add the encoder in a directory, or in zip files; empty `name` and `pooling` are what the files say.

        A decoder is refused where torch sees no GPU, unless `cpu` says that it may run on the processor.
        Takes as long as its export: 20 seconds for a small encoder, some minutes for a large one.
        """
        if not paths or not all(isinstance(path, str) and Path(path).is_absolute() for path in paths):
            raise BackboneRefused("give the absolute path of a directory, or of zip files")
        if pooling not in POOLINGS:
            raise BackboneRefused(f"the pooling {pooling} is not supported: choose mean or cls")
        async with self._turn:
            there = await asyncio.to_thread(self._present.all)
            place = backbones.new_place(self._directory.backbones)
            spec = AddSpec(
                paths=list(paths),
                name=name,
                pooling=pooling,
                target=str(place),
                cache_dir=str(self._present.cache_dir),
                precision=self._precision,
                taken=[found.name for found in there],
                known={found.fingerprint: found.name for found in there},
                cpu=cpu,
            )
            try:
                if why := await run_child("reflexd.engine.registration", spec):
                    raise BackboneRefused(why)
            except BaseException:
                await asyncio.to_thread(backbones.discard, place)
                raise
            record = backbones.read_all(self._directory.backbones)[place]
        log.info("backbone added", backbone=record.name, fingerprint=record.fingerprint)
        return next(row for row in await self.rows() if row["fingerprint"] == record.fingerprint)

    async def rows(self) -> list[dict[str, Any]]:
        """Return one row an encoder, those of plugins first; `models` is how many were trained on it."""
        return await asyncio.to_thread(self._rows)

    async def remove(self, name: str) -> dict[str, Any]:
        """Remove an added encoder that neither the configuration nor a model nor a waiting job needs."""
        async with self._turn:
            found = [row for row in await self.rows() if row["name"] == name]
            added = [row for row in found if row["added"]]
            if not added:
                wrong = "comes with a plugin and cannot be removed" if found else "is no backbone that is here"
                raise BackboneRefused(f"{name} {wrong}: see `reflexd backbones list`")
            row = added[0]
            if row["configured"] and len(found) == 1:
                raise BackboneRefused(f"{name} is in use: [training] backbone names it")
            waiting = await self._waiting(row["fingerprint"])
            if row["models"] or waiting:
                used = [_count(row["models"], "model")] if row["models"] else []
                used += [_count(waiting, "unfinished job")] if waiting else []
                raise BackboneRefused(f"{name} is in use by {' and '.join(used)}")
            folders = backbones.read_all(self._directory.backbones)
            for folder, record in folders.items():
                if record.name == name:
                    await asyncio.to_thread(backbones.discard, folder)
        log.info("backbone removed", backbone=name)
        return row

    def _rows(self) -> list[dict[str, Any]]:
        used = self._used()
        rows = []
        for found in self._present.all():
            width, layers = size_of(found.folder)
            rows.append(
                {
                    "name": found.name,
                    "fingerprint": found.fingerprint,
                    "width": width,
                    "layers": layers,
                    "pooling": found.checkpoint.pooling,
                    "license": found.checkpoint.license,
                    "models": used[found.fingerprint],
                    "configured": found.name == self._configured,
                    "added": found.added,
                }
            )
        return rows

    def _used(self) -> Counter[str]:
        """Count models by the fingerprint in their manifests: a name in the database may have meant another encoder."""
        used: Counter[str] = Counter()
        for folder in self._directory.models.iterdir():
            try:
                used[artifacts.read_manifest(self._directory.models, folder.name).backbone.fingerprint] += 1
            except DamagedArtifact:  # half made, or nobody can use it any more
                continue
        return used

    async def _waiting(self, fingerprint: str) -> int:
        """Count jobs that have not ended and start from a model of this encoder."""
        waiting = 0
        for job_id in await asyncio.to_thread(self._started_from, fingerprint):
            job = await self._store.jobs.get(job_id)
            waiting += job is not None and job.finished_at is None
        return waiting

    def _started_from(self, fingerprint: str) -> list[str]:
        found = []
        for run_dir in self._directory.runs.iterdir():
            try:
                if artifacts.read_manifest(run_dir, runs.BASE).backbone.fingerprint == fingerprint:
                    found.append(run_dir.name)
            except DamagedArtifact:  # most jobs start from nothing
                continue
        return found


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
