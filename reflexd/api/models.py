"""Decides the routes of /v1/models: the tenant's served names, each with the version that answers."""

from __future__ import annotations

from litestar import Controller, delete, get

from reflexd.api.job_objects import model_object
from reflexd.schemas.openai import Deleted, Model, Page
from reflexd.service.models import ModelService
from reflexd.store.keys import Key


class ModelsController(Controller):
    """Served models.

    The name is the whole rest of the path: a slash in it arrives decoded, and must give a 404 of the model, not of
    the route.
    """

    path = "/v1/models"

    @get(opt={"scope": "predict"})
    async def page(self, key: Key, served: ModelService) -> Page[Model]:
        """List all served names, latest trained first, then the default Reflexes; the SDK never pages this list."""
        return Page(data=[model_object(versions, versions[-1]) for versions in served.all(key)])

    @get("/{model:path}", opt={"scope": "predict"})
    async def retrieve(self, model: str, key: Key, served: ModelService) -> Model:
        """Show one model: by served name, job id or name@version."""
        return model_object(*await served.get(key, model.removeprefix("/")))

    @delete("/{model:path}", status_code=200, opt={"scope": "train"})
    async def remove(self, model: str, key: Key, served: ModelService, retried: bool) -> Deleted:
        """Delete a model with the jobs that made it: all of a served name, or one version by job id or name@version."""
        name = model.removeprefix("/")
        await served.delete(key, name, retried=retried)
        return Deleted(id=name, object="model")
