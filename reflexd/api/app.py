"""Decides the application: its routes, its guard, and what surrounds every request (id, body limit, deadline)."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import structlog
from litestar import Litestar
from litestar.di import Provide
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from msgspec import Struct

from reflexd.api import errors
from reflexd.api.auth import current_key, key_guard
from reflexd.api.fine_tuning import FineTuningController
from reflexd.api.health import healthz, readyz
from reflexd.api.models import ModelsController
from reflexd.api.predict import ReflexController
from reflexd.api.protocol import new_request_id
from reflexd.errors import RequestAborted, RequestTimeout
from reflexd.service.jobs import JobService
from reflexd.service.predictions import PredictionService
from reflexd.service.readiness import Readiness
from reflexd.store.keys import KeyStore
from reflexd.store.models import ModelStore

CALLERS_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Services(Struct, frozen=True, kw_only=True):
    """What the handlers call."""

    keys: KeyStore
    models: ModelStore
    jobs: JobService
    predictions: PredictionService
    readiness: Readiness


def create_app(services: Services, max_body_bytes: int, body_timeout_seconds: float) -> ASGIApp:
    """Return the ASGI application."""

    def given(value: Any) -> Provide:
        return Provide(lambda: value, sync_to_thread=False)

    app = Litestar(
        route_handlers=[FineTuningController, ModelsController, ReflexController, healthz, readyz],
        dependencies={
            "key": Provide(current_key, sync_to_thread=False),
            "jobs": given(services.jobs),
            "models": given(services.models),
            "predictions": given(services.predictions),
            "readiness": given(services.readiness),
        },
        guards=[key_guard(services.keys)],
        exception_handlers={Exception: errors.answer},
        request_max_body_size=max_body_bytes,
        openapi_config=None,
        logging_config=None,
    )
    return Envelope(app, body_timeout_seconds)


class Envelope:
    """Wraps the framework, so that even its own refusals carry x-request-id and no body may drip in for ever."""

    def __init__(self, app: ASGIApp, body_timeout_seconds: float) -> None:
        self._app = app
        self._body_timeout = body_timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        deadline = asyncio.get_running_loop().time() + self._body_timeout
        whole = False

        async def receive_in_time() -> Any:
            nonlocal whole
            if whole:  # only a disconnect can follow
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise RequestTimeout from None
            if message["type"] == "http.disconnect":
                raise RequestAborted
            whole = not message.get("more_body", False)
            return message

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                if not whole and message["status"] >= 400 and _has_body(scope):
                    headers.append((b"connection", b"close"))  # the rest of the body is not read
                message["headers"] = headers
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._app(scope, receive_in_time, send_with_id)


def _has_body(scope: Scope) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


def _request_id(scope: Scope) -> str:
    """Return the caller's x-request-id if it is harmless, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and CALLERS_ID.fullmatch(text := value.decode("latin-1")):
            return text
    return new_request_id()
