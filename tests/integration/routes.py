"""Decides which routes the tests walk: all of the application's own table, so that a new one cannot be forgotten."""

from __future__ import annotations

import re
import warnings
from typing import Any

from litestar import Litestar
from msgspec import Struct

from reflexd.api.app import ROUTE_HANDLERS
from reflexd.api.auth import PUBLIC, scopes_of

UNKNOWN = "ftjob-00000000-0000-7000-8000-000000000000"


class Route(Struct, frozen=True):
    """One method of one path; `path` has {job_id}, {model} and their like in it."""

    method: str
    path: str
    scopes: tuple[str, ...]

    @property
    def example(self) -> str:
        """The path with the id of no job in it."""
        return self.to(UNKNOWN)

    def to(self, name: str) -> str:
        """Return the path with this id or name in it."""
        return re.sub(r"\{\w+\}", name, self.path)


def _walk() -> list[Route]:
    with warnings.catch_warnings():  # without the application's dependencies their names pass for query parameters
        warnings.simplefilter("ignore")
        app = Litestar(route_handlers=ROUTE_HANDLERS, openapi_config=None)
    found = []
    for route in app.routes:
        handlers: Any = getattr(route, "route_handler_map", {})
        path = route.path_format.replace("{model:path}", "{model}")
        found += [Route(method, path, scopes_of(handler)) for method, (handler, _) in handlers.items()]
    return sorted(found, key=lambda route: (route.path, route.method))


ROUTES = _walk()
CLOSED = [route for route in ROUTES if PUBLIC not in route.scopes]
OPEN = [route for route in ROUTES if PUBLIC in route.scopes]
