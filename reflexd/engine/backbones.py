"""Decides which sentence encoders are on this machine: those that plugins register and those that were added.

A model and its encoder find each other by fingerprint; names are for people and for the configuration.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

from reflexd.engine import backbone
from reflexd.engine.backbone import COMPARED_ROWS, DESCRIPTION, PRECISIONS, BackboneMissing, incompatibility
from reflexd.errors import JobFailure, StartupError
from reflexd.hookspecs import Checkpoint
from reflexd.registry import artifacts, backbones, runs
from reflexd.registry.artifacts import DamagedArtifact, Manifest

log = structlog.get_logger(__name__)


class Present(Struct, frozen=True):
    """An encoder whose files are on this machine; `added` is false for a plugin's."""

    checkpoint: Checkpoint
    folder: Path
    fingerprint: str
    added: bool

    @property
    def name(self) -> str:
        """Return the name that `[training] backbone` may hold."""
        return self.checkpoint.name

    def precision(self, configured: str) -> str:
        """Return what it is exported in where `[backbone] precision` says `configured`; a decoder has its own."""
        return self.checkpoint.precision or configured


class Ground(Struct, frozen=True):
    """What a training job stands on: the exported encoder's folder, and that of the weights it was exported from."""

    exported: Path
    checkpoint: Path
    fp32: Path | None = None
    """The encoder in fp32, where the job has enough rows to be compared in both precisions."""


class Backbones:
    """The encoders of this machine, and their exported forms in the cache."""

    def __init__(self, registered: Mapping[str, Checkpoint], backbones_dir: Path, cache_dir: Path) -> None:
        """`registered` are the plugins' checkpoints by name, `backbones_dir` is where added ones lie."""
        self._registered = registered
        self._backbones_dir = backbones_dir
        self._cache_dir = cache_dir
        self._found: dict[str, Present] = {}
        self._exports = asyncio.Lock()

    @property
    def cache_dir(self) -> Path:
        """Return where exported encoders lie."""
        return self._cache_dir

    def named(self, name: str) -> Present:
        """Return the encoder that the configuration names, its files checked; reads them whole.

        Raises StartupError where there is none, where a plugin's and an added one share the name, or where its files
        are not what they were.
        """
        added = [found for found in self._added() if found.name == name]
        if name not in self._registered and not added:
            known = ", ".join([*self._registered, *(found.name for found in self._added())]) or "none"
            raise StartupError(
                f"[training] backbone: there is no {name!r} (there is: {known}); add it with `reflexd backbones add`"
            )
        if name in self._registered and added:
            raise StartupError(f"[training] backbone: a plugin registers {name!r} too: use `reflexd backbones remove`")
        if not added:
            return self._of_plugin(name)
        backbone.find_files(added[0].checkpoint)
        return added[0]

    def all(self) -> list[Present]:
        """Return every encoder whose files are there, the plugins' first."""
        return [*self._of_plugins.values(), *self._added()]

    def identified(self, fingerprint: str) -> Present | None:
        """Return the encoder with this fingerprint, if it is on this machine."""
        for found in list(self._found.values()):  # other threads add to it
            if found.fingerprint == fingerprint:
                return found
        return next((found for found in self.all() if found.fingerprint == fingerprint), None)

    def of_model(self, manifest: Manifest) -> Present:
        """Return the encoder that a model was trained on.

        Raises BackboneMissing where it is not on this machine, DamagedArtifact for another training stack or an unknown
        precision.
        """
        made_by = manifest.backbone
        if problem := incompatibility(manifest, made_by.fingerprint, made_by.precision):
            raise DamagedArtifact(problem)
        if made_by.precision not in PRECISIONS:
            raise DamagedArtifact(f"the model was trained in {made_by.precision}, and there is {', '.join(PRECISIONS)}")
        found = self.identified(made_by.fingerprint)
        if found is None:
            raise BackboneMissing(
                f"the model was trained on {made_by.name}, a sentence encoder that is not on this machine: add it with "
                "`reflexd backbones add`"
            )
        return found

    def exported(self, present: Present, precision: str) -> Path:
        """Return where the exported form of an encoder lies, or will lie."""
        return backbone.exported_directory(self._cache_dir, present.fingerprint, precision)

    async def export(self, present: Present, precision: str) -> Path:
        """Return the folder of an encoder's exported form, made first where it is missing or damaged.

        That takes 20 seconds for a small encoder and some minutes for a large one. Raises StartupError.
        """
        target = self.exported(present, precision)
        async with self._exports:  # a large encoder takes gigabytes to export
            if await asyncio.to_thread(backbone.read_description, target) is None:
                log.info("preparing a sentence encoder, once", backbone=present.name, precision=precision)
                source = await asyncio.to_thread(backbone.find_files, present.checkpoint)
                await backbone.export(present.checkpoint, source, target, precision)
        return target

    async def ground(self, run_dir: Path, default: Present, precision: str) -> Ground:
        """Return what a job trains on: its base model's own encoder, and `default` in `precision` for one without.

        Raises JobFailure where the base cannot be used, StartupError where the encoder cannot be exported.
        """
        if (run_dir / runs.BASE).is_dir():
            try:
                manifest = await asyncio.to_thread(artifacts.read_manifest, run_dir, runs.BASE)
                default = await asyncio.to_thread(self.of_model, manifest)
            except BackboneMissing as error:
                said = f"The base model cannot be used: {error}"
                raise JobFailure("base_model_incompatible", said, "base_model") from error
            except DamagedArtifact as error:
                raise JobFailure("model_unusable", f"The base model cannot be used: {error}", "base_model") from error
            precision = manifest.backbone.precision
        else:
            precision = default.precision(precision)
        target = self.exported(default, precision)
        if not (target / DESCRIPTION).is_file():  # whether it is sound, the training process sees
            await self.export(default, precision)
        return Ground(target, default.folder, await self._in_fp32(run_dir, default, precision))

    async def _in_fp32(self, run_dir: Path, present: Present, precision: str) -> Path | None:
        """Return the encoder's folder in fp32 for a cold job that may be compared; it does without where that fails."""
        mark = None if (run_dir / runs.BASE).is_dir() else await asyncio.to_thread(runs.read_prepared, run_dir)
        if mark is None or precision != "int8" or mark.rows < COMPARED_ROWS:
            return None
        target = self.exported(present, "fp32")
        if (target / DESCRIPTION).is_file():  # as above: hashing it here would hold up every such job
            return target
        try:
            return await self.export(present, "fp32")
        except (StartupError, OSError) as error:
            log.warning("an encoder cannot be exported in fp32: int8 is not compared", why=str(error))
            return None

    # --- where they come from -----------------------------------------------------------------------------------------

    def _of_plugin(self, name: str) -> Present:
        if name not in self._found:  # hashing the weights takes a while, and an installed package does not change
            checkpoint = self._registered[name]
            folder = backbone.find_files(checkpoint)
            self._found[name] = Present(checkpoint, folder, backbone.fingerprint(checkpoint, folder), added=False)
        return self._found[name]

    @cached_property
    def _of_plugins(self) -> dict[str, Present]:
        found = {}
        for name in self._registered:
            try:
                found[name] = self._of_plugin(name)
            except StartupError as error:  # it is not the configured one, or the daemon would not have started
                log.warning("an encoder of a plugin cannot be used", why=str(error))
        return found

    def _added(self) -> list[Present]:
        return [
            Present(
                Checkpoint(
                    name=record.name,
                    directory=str(folder),
                    files=record.files,
                    license=record.license,
                    pooling=record.pooling,
                    precision=record.precision,
                ),
                folder,
                record.fingerprint,
                added=True,
            )
            for folder, record in backbones.read_all(self._backbones_dir).items()
        ]


def size_of(folder: Path) -> tuple[int | None, int | None]:
    """Return width and layers as a checkpoint's config.json tells them; None for what it does not tell."""
    try:
        given = msgspec.json.decode((folder / backbones.CONFIG).read_bytes(), type=dict[str, object])
    except (OSError, msgspec.DecodeError):
        return None, None

    def first(*names: str) -> int | None:
        return next((value for name in names if isinstance(value := given.get(name), int)), None)

    return first("hidden_size", "dim", "d_model"), first("num_hidden_layers", "n_layers", "num_layers")
