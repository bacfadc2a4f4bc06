"""Decides how the description is published: /openapi.json for programs, /docs for people; both need no key.

The page is Swagger UI out of the installed package. Its policy lets it load from, and speak to, this daemon alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from litestar import Request, Response, route
from litestar.handlers import HTTPRouteHandler

from reflexd.api.auth import PUBLIC

FILES = {
    "/docs": ("index.html", "text/html"),
    "/docs/start.js": ("start.js", "text/javascript"),
    "/docs/swagger-ui-bundle.js": ("swagger-ui/swagger-ui-bundle.js", "text/javascript"),
    "/docs/swagger-ui.css": ("swagger-ui/swagger-ui.css", "text/css"),
    "/docs/favicon-32x32.png": ("swagger-ui/favicon-32x32.png", "image/png"),
}
"""Every file that is served, by its path: no path is ever made of what a request says."""

# Swagger UI draws its arrows from data: URLs of its style sheet; they stand in the page and load nothing.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
}


def page_routes() -> list[HTTPRouteHandler]:
    """Return the handlers of the page and its files."""
    static = files("reflexd") / "static"
    return [
        _serve(path, (static / name).read_bytes(), media_type, PAGE_HEADERS)
        for path, (name, media_type) in FILES.items()
    ]


def document_route(document: bytes) -> HTTPRouteHandler:
    """Return the handler of /openapi.json."""
    return _serve("/openapi.json", document, "application/json", {"x-content-type-options": "nosniff"})


def _serve(path: str, content: bytes, media_type: str, headers: dict[str, str]) -> HTTPRouteHandler:
    """Return a handler of bytes that stay the same while the daemon runs; a cache asks each time whether they do."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    all_headers = {**headers, "etag": tag, "cache-control": "no-cache"}

    async def answer(request: Request[Any, Any, Any]) -> Response[bytes]:
        known = {each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")}
        if tag in known or "*" in known:
            return Response(b"", status_code=304, headers=all_headers, media_type=media_type)
        return Response(content, headers=all_headers, media_type=media_type)

    made: Callable[..., HTTPRouteHandler] = route(
        path, http_method=["GET", "HEAD"], opt={"scope": PUBLIC}, include_in_schema=False
    )
    return made(answer)
