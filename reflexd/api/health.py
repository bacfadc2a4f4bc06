"""Decides the probes: /healthz and /health say that the process lives, /readyz that it can serve, or why not."""

from __future__ import annotations

from litestar import Response, route

from reflexd.api.auth import PUBLIC
from reflexd.service.readiness import Readiness


@route(["/healthz", "/health"], http_method=["GET", "HEAD"], opt={"scope": PUBLIC})
async def healthz() -> dict[str, str]:
    """Say that the process answers."""
    return {"status": "ok"}


@route("/readyz", http_method=["GET", "HEAD"], opt={"scope": PUBLIC})
async def readyz(readiness: Readiness) -> Response[dict[str, object]]:
    """Say whether requests can be served, with the reason of each part that cannot."""
    reasons = await readiness.reasons()
    body: dict[str, object] = {"status": "unavailable" if reasons else "ok", "reasons": reasons}
    return Response(body, status_code=503 if reasons else 200, headers={"retry-after": "2"} if reasons else {})
