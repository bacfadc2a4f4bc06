"""Decides what a caller sees of the served names, and what deleting one takes along: its versions and their jobs."""

from __future__ import annotations

from reflexd.errors import InvalidRequest, ModelNotFound, ModelNotReady
from reflexd.service.jobs import JobService
from reflexd.store.keys import Key
from reflexd.store.models import ModelVersion
from reflexd.store.store import Store


class ModelService:
    """Served names of tenants, and the default Reflexes that all of them share."""

    def __init__(self, store: Store, jobs: JobService) -> None:
        self._store = store
        self._jobs = jobs

    def all(self, key: Key) -> list[list[ModelVersion]]:
        """Return the versions of each own served name, latest trained first, then each default that none shadows."""
        own = self._store.models.names(key.tenant_id)
        names = {versions[-1].name for versions in own}
        return own + [[version] for version in self._store.models.defaults() if version.name not in names]

    async def get(self, key: Key, name: str) -> tuple[list[ModelVersion], ModelVersion]:
        """Return all versions of the model that a name, job id or name@version means, and that one version."""
        version = await self._find(key, name)
        if version.is_default:
            return [version], version
        return self._store.models.versions(key.tenant_id, version.name), version

    async def delete(self, key: Key, name: str, *, retried: bool) -> None:
        """Delete what a name means: a served name with all its versions, or the one of a job id or name@version.

        What went with its job already, or by an earlier sending of this request, counts as deleted.
        """
        try:
            version = await self._find(key, name)
            if version.is_default:
                raise InvalidRequest(
                    "A default Reflex belongs to the installation and cannot be deleted", param="model"
                )
        except InvalidRequest:  # a newer job of the name, or a default's, must not hide that the model was deleted
            if await self._store.deletions.counts(key.tenant_id, name, "model", retried=retried):
                return
            raise
        versions = [version] if name != version.name else self._store.models.versions(key.tenant_id, name)
        gone = await self._store.deletions.delete_versions(key.tenant_id, name, versions)
        await self._jobs.discard([v.job_id for v in versions], gone)

    async def _find(self, key: Key, name: str) -> ModelVersion:
        version = await self._store.resolve(key.tenant_id, name)
        if version is None:
            raise ModelNotFound(param="model")
        if version == "waiting":
            raise ModelNotReady(param="model")
        return version
