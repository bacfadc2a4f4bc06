"""Decides who may call a route: a Bearer key with a scope that the route names; naming none means `admin`.

And what else of a request's headers the handlers get.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from reflexd.errors import AuthenticationFailed, InsufficientScope
from reflexd.store.keys import Key, KeyStore

PUBLIC = "public"

Connection = ASGIConnection[Any, Any, Any, Any]


def key_guard(keys: KeyStore) -> Callable[[Connection, BaseRouteHandler], Awaitable[None]]:
    """Return the guard of the whole application.

    It runs once the route is known and before the body is read, and decides by the matched handler alone.
    """

    # A coroutine, although it awaits nothing: the framework would run a plain function in a thread, for each request.
    async def authorise(connection: Connection, handler: BaseRouteHandler) -> None:
        needed = scopes_of(handler)
        if PUBLIC in needed:
            return
        key = keys.find(_bearer(connection))
        if key is None:
            raise AuthenticationFailed
        if not any(scope in key.scopes for scope in needed):
            raise InsufficientScope(f"This API key lacks the scope {' or '.join(needed)}, which the request needs")
        connection.state.key = key

    return authorise


def scopes_of(handler: BaseRouteHandler) -> tuple[str, ...]:
    """Return the scopes each of which opens a route."""
    named = handler.opt.get("scope", "admin")
    return (named,) if isinstance(named, str) else tuple(named)


def current_key(request: Any) -> Key:
    """Return the key that the guard found; a Litestar dependency."""
    key: Key = request.state.key
    return key


def is_retried(request: Any) -> bool:
    """Return whether the SDK says that it sends this request again (spec 3.6); a Litestar dependency."""
    count = request.headers.get("x-stainless-retry-count", "0")
    return count.isascii() and count.isdigit() and int(count[:9]) > 0


def _bearer(connection: Connection) -> str:
    given = connection.headers.getall("authorization", [])
    if len(given) != 1:
        return ""
    scheme, _, secret = given[0].partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""
