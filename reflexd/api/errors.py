"""Decides that every failure, the framework's own included, leaves as the OpenAI error body."""

from __future__ import annotations

from typing import Any

import msgspec
import structlog
from litestar import Request, Response
from litestar.exceptions import (
    ClientException,
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)

from reflexd.errors import BodyTooLarge, InvalidRequest, MethodNotAllowed, ReflexError, RouteNotFound

log = structlog.get_logger(__name__)


def answer(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Turn an exception into the response that its caller gets; what we did not foresee is logged and tells nothing."""
    known = told(error)
    return Response(
        msgspec.json.encode(known.body()),
        status_code=known.status,
        media_type="application/json",
        headers=known.headers | _allow(error),
    )


def told(error: Exception) -> ReflexError:
    """Return what a caller is told of an exception, and log one that we did not foresee."""
    known = _known(error)
    if known is None:
        log.error("request failed", exc_info=error)
    return known or ReflexError()


def _allow(error: Exception) -> dict[str, str]:
    """Return the header that a 405 must carry (RFC 9110, 15.5.6)."""
    if isinstance(error, MethodNotAllowedException) and error.headers:
        return {name: value for name, value in error.headers.items() if name == "allow"}
    return {}


def _known(error: Exception) -> ReflexError | None:
    match error:
        case ReflexError():
            return error
        case MethodNotAllowedException():
            return MethodNotAllowed()
        case NotFoundException():
            return RouteNotFound()
        case ValidationException():
            return _invalid(error)
        case HTTPException(status_code=413):
            return BodyTooLarge()
        case ClientException():
            return InvalidRequest(error.detail)
    return None


def _invalid(error: ValidationException) -> InvalidRequest:
    for problem in error.extra if isinstance(error.extra, list) else ():
        if isinstance(problem, dict) and "key" in problem:
            return InvalidRequest(f"{problem['key']}: {problem.get('message', 'is not valid')}", param=problem["key"])
    return InvalidRequest(error.detail)
