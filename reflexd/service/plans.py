"""Decides what a list of names means: the versions that answer now, or those that answered when a batch began."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Protocol

from msgspec import Struct

from reflexd.errors import ModelNotFound, ModelNotReady
from reflexd.service.rendering import Renderer, Shape
from reflexd.store.models import ModelStore, ModelVersion
from reflexd.store.store import Store

PREPARED_VALUES = 200_000
"""Values of the answers that stand prepared: some 20 MB."""
Place = tuple[str, tuple[str, ...], Shape]


class Plan:
    """What a list of names means at present, and how its answers are made."""

    def __init__(self, asked: Sequence[ModelVersion], shape: Shape) -> None:
        """`asked` are the models in the order of the answer; each is scored once, whatever the order."""
        distinct = sorted({version.id: version for version in asked}.values(), key=lambda version: version.id)
        self.ids = tuple(version.id for version in distinct)
        self.values = sum(map(shape.size, asked))
        """How many values a text's predictions hold, roughly."""
        self._asked, self._distinct, self._shape = asked, distinct, shape

    @cached_property
    def renderer(self) -> Renderer:
        """What makes the answers; made in the thread that first needs it."""
        place = {model: number for number, model in enumerate(self.ids)}
        return Renderer(self._distinct, [place[version.id] for version in self._asked], self._shape)


class Asked(Struct, frozen=True):
    """One text and the models to ask about it."""

    text: str
    plan: Plan


class Planner(Protocol):
    """Knows what a tenant's names mean."""

    async def find(self, tenant_id: str, names: tuple[str, ...], shape: Shape, param: str = "model") -> Plan:
        """Return what these names mean; raises ModelNotFound and ModelNotReady, naming `param`."""
        ...


class Plans:
    """What names mean now; prepared plans are kept until any model comes or goes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._plans: OrderedDict[Place, Plan] = OrderedDict()
        self._prepared = 0
        self._generation = store.models.generation

    async def find(self, tenant_id: str, names: tuple[str, ...], shape: Shape, param: str = "model") -> Plan:
        """Return what these names mean now; raises ModelNotFound and ModelNotReady, naming `param`."""
        if self._generation != self._store.models.generation:
            self._generation, self._prepared = self._store.models.generation, 0
            self._plans.clear()
        place = (tenant_id, names, shape)
        if (known := self._plans.get(place)) is not None:
            self._plans.move_to_end(place)
            return known
        generation = self._generation
        versions = [await self.resolve(tenant_id, name, param) for name in names]
        plan = Plan(versions, shape)
        # A job that was just created shadows a default Reflex, and is no model yet: such names are looked up each time.
        if any(version.is_default for version in versions) or plan.values > PREPARED_VALUES:
            return plan
        if generation == self._store.models.generation == self._generation and place not in self._plans:
            self._prepared += plan.values
            self._plans[place] = plan
            while self._prepared > PREPARED_VALUES:
                self._prepared -= self._plans.popitem(last=False)[1].values
        return plan

    async def resolve(self, tenant_id: str, name: str, param: str = "model") -> ModelVersion:
        """Return the version that a name means now."""
        version = await self._store.resolve(tenant_id, name)
        if version is None:
            raise ModelNotFound(param=param)
        if version == "waiting":
            raise ModelNotReady(param=param)
        return version


class PinnedPlans:
    """What names meant when a batch began, whatever has been trained since; what is deleted means nothing any more."""

    def __init__(self, models: ModelStore, pins: Mapping[str, str]) -> None:
        """`pins` holds for each name the id of its version, or "" where it was not trained yet."""
        self._models = models
        self._pins = pins
        self._plans: OrderedDict[Place, Plan] = OrderedDict()
        self._prepared = 0

    async def find(self, tenant_id: str, names: tuple[str, ...], shape: Shape, param: str = "model") -> Plan:
        """Return what these names meant; raises ModelNotFound and ModelNotReady, naming `param`."""
        versions = []
        for name in names:
            pinned = self._pins.get(name)
            if pinned == "":
                raise ModelNotReady("This model had no trained version when the batch began", param=param)
            version = None if pinned is None else self._models.of_id(pinned)
            if version is None:
                raise ModelNotFound(param=param)
            versions.append(version)
        place = (tenant_id, names, shape)
        if (known := self._plans.get(place)) is not None:
            return known
        plan = self._plans[place] = Plan(versions, shape)
        self._prepared += plan.values
        while self._prepared > PREPARED_VALUES and len(self._plans) > 1:
            self._prepared -= self._plans.popitem(last=False)[1].values
        return plan
