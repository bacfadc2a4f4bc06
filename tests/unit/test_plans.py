"""Shows that a batch asks the versions that its names meant when it began, and no others."""

from __future__ import annotations

import pytest

from reflexd.errors import ModelNotFound, ModelNotReady
from reflexd.service.plans import PinnedPlans, Plans
from reflexd.service.rendering import Shape
from reflexd.store.models import OURS, ModelVersion
from reflexd.store.store import Store

pytestmark = pytest.mark.anyio


def version(name: str, number: int, tenant_id: str = "t") -> ModelVersion:
    return ModelVersion(
        id=f"{tenant_id}-{name}-{number}",
        tenant_id=tenant_id,
        name=name,
        version=number,
        job_id=f"ftjob-{tenant_id}-{name}-{number}",
        labels=["a", "b"],
        mode="single_label",
        backbone="b",
        precision="int8",
        result=None,
        created_at=1,
    )


async def test_pinned_names_keep_their_versions(store: Store) -> None:
    store.models.add(version("m", 1))
    store.models.add_default(version("domain", 1, OURS), ["topic"])
    names = ("m", "m@1", "topic", "domain@1")
    now = Plans(store)
    pins = {name: (await now.resolve("t", name)).id for name in names}
    pinned = PinnedPlans(store.models, {**pins, "waits": ""})
    before = await pinned.find("t", names, Shape())
    assert before.ids == ("reflexd-domain-1", "t-m-1")

    store.models.add(version("m", 2))
    store.models.add(version("domain", 1))
    assert (await now.find("t", names, Shape())).ids == ("t-domain-1", "t-m-1", "t-m-2")
    assert await pinned.find("t", names, Shape()) is before, "an own model shadows the default, and not in the batch"
    assert await pinned.find("t", names, Shape(indexed=True)) is not before

    with pytest.raises(ModelNotReady):
        await pinned.find("t", ("waits",), Shape())
    with pytest.raises(ModelNotFound):
        await pinned.find("t", ("m@2",), Shape())
    store.models.forget(["t-m-1"])
    with pytest.raises(ModelNotFound):
        await pinned.find("t", names, Shape())
