"""Decides that /metrics, in Prometheus's text form, is for the operator: it needs a key with the scope `admin`."""

from __future__ import annotations

from litestar import Response, get
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest


@get("/metrics", sync_to_thread=False)
def metrics() -> Response[str]:
    """Say how much is classified and how long that takes."""
    return Response(generate_latest().decode(), headers={"content-type": CONTENT_TYPE_LATEST})
