"""Decides the probes: /healthz and /health say that the process lives, /readyz that it can serve, or why not."""

from __future__ import annotations

from typing import Literal

from litestar import Response, route
from msgspec import Struct

from reflexd.api.auth import PUBLIC
from reflexd.service.readiness import Readiness


class Alive(Struct):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(Struct):
    """Whether requests can be served; `reasons` names each part that cannot, and why."""

    status: Literal["ok", "unavailable"]
    reasons: dict[str, str]


@route(["/healthz", "/health"], http_method=["GET", "HEAD"], opt={"scope": PUBLIC})
async def healthz() -> Alive:
    """Say that the process answers."""
    return Alive()


@route("/readyz", http_method=["GET", "HEAD"], opt={"scope": PUBLIC})
async def readyz(readiness: Readiness) -> Response[Ready]:
    """Say whether requests can be served, with the reason of each part that cannot."""
    reasons = await readiness.reasons()
    body = Ready("unavailable" if reasons else "ok", reasons)
    return Response(body, status_code=503 if reasons else 200, headers={"retry-after": "2"} if reasons else {})
