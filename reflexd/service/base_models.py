"""Decides which model a job starts from: the name is resolved once, at create, and its files are pinned by a copy.

Retraining or deleting the source afterwards changes nothing for the job: its run directory holds the copy.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from reflexd.engine.backbones import Backbones
from reflexd.errors import BaseModelIncompatible, BaseModelNotFound, BaseModelNotReady
from reflexd.registry import artifacts
from reflexd.registry.artifacts import DamagedArtifact
from reflexd.service.admission import Admitted, Base
from reflexd.store.models import ModelVersion
from reflexd.store.store import Store

log = structlog.get_logger(__name__)


class BaseModels:
    """Finds the models that jobs start from."""

    def __init__(self, store: Store, models_dir: Path, backbones: Backbones) -> None:
        self._store = store
        self._models_dir = models_dir
        self._backbones = backbones

    async def pin(self, tenant_id: str, base: Base, admitted: Admitted) -> tuple[ModelVersion, Path]:
        """Return the version that the name means now, and its folder, checked to be of use for the job.

        Raises BaseModelNotFound, BaseModelNotReady or BaseModelIncompatible, naming the field.
        """
        version = await self._store.resolve(tenant_id, base.name)
        if version is None:
            raise BaseModelNotFound(param=base.param)
        if version == "waiting":
            raise BaseModelNotReady(param=base.param)
        folder = self._models_dir / version.id
        try:
            manifest = await asyncio.to_thread(artifacts.read_manifest, self._models_dir, version.id)
        except DamagedArtifact as error:
            log.error("base model unusable", model=version.id, why=str(error))
            raise BaseModelIncompatible("The files of this model cannot be used", param=base.param) from error
        try:
            await asyncio.to_thread(self._backbones.of_model, manifest)
        except DamagedArtifact as error:
            raise BaseModelIncompatible(f"This model cannot be started from: {error}", param=base.param) from error
        if admitted.job.labels and manifest.mode != admitted.job.mode:
            raise BaseModelIncompatible(
                f"The model to start from is {manifest.mode}, and this job is {admitted.job.mode}", param=base.param
            )
        return version, folder
