"""Decides the routes of /v1/models: the tenant's served names, each with the version that answers."""

from __future__ import annotations

from litestar import Controller, get

from reflexd.errors import ModelNotFound
from reflexd.schemas.openai import Model, Page
from reflexd.store.keys import Key
from reflexd.store.models import ModelStore, ModelVersion


class ModelsController(Controller):
    """Served models."""

    path = "/v1/models"
    opt = {"scope": "predict"}  # noqa: RUF012 - Litestar reads it from the class

    @get()
    async def page(self, key: Key, models: ModelStore) -> Page[Model]:
        """List all served names, latest trained first; the SDK never pages this list."""
        found = [model_object(versions) for versions in models.names(key.tenant_id)]
        return Page(data=found)

    @get("/{model:str}")
    async def retrieve(self, model: str, key: Key, models: ModelStore) -> Model:
        """Show one served name, by name or job id."""
        version = models.resolve(key.tenant_id, model)
        if version is None:
            raise ModelNotFound(param="model")
        return model_object([version] if version.name != model else models.versions(key.tenant_id, model))


def model_object(versions: list[ModelVersion]) -> Model:
    """Return a name's wire form; the last version is the one that answers."""
    latest = versions[-1]
    return Model(
        id=latest.name,
        created=latest.created_at,
        owned_by=latest.tenant_id,
        labels=latest.labels,
        mode=latest.mode,
        version=latest.version,
        versions=[v.version for v in versions],
        job_id=latest.job_id,
        backbone=latest.backbone,
        precision=latest.precision,
        result=latest.result,
    )
