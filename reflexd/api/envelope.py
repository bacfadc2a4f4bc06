"""Decides what surrounds every request: its id, the host check before all else, its body's deadline and its memory."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from reflexd.api.hosts import AllowedHosts
from reflexd.api.protocol import new_request_id
from reflexd.config import Http
from reflexd.errors import RateLimited, ReflexError, RequestAborted, RequestTimeout, UnsupportedEncoding
from reflexd.observability import REQUEST_ID

UPLOAD = ("POST", "/v1/files")
"""Where a body goes to the disk as it arrives: it may take longer, and no memory is held for it."""
SMALL_BYTES = 65_536
"""A body of up to this many bytes is always read, however much else is held."""
CALLERS_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Envelope:
    """Wraps the framework, so that even its own refusals carry x-request-id and no body may drip in for ever."""

    def __init__(self, app: ASGIApp, hosts: AllowedHosts, http: Http, upload_timeout_seconds: float) -> None:
        self._app = app
        self._hosts = hosts
        self._body_timeout = http.body_timeout_seconds
        self._upload_timeout = upload_timeout_seconds
        self._room = max(http.bodies_bytes, http.max_body_bytes)
        """How many more bytes of large bodies may be held; those of a request count until it is answered."""
        self._share = max(self._room // 4, http.max_body_bytes)
        self._held: Counter[str] = Counter()
        """Of how many each key has the use."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        if scope["type"] != ScopeType.HTTP:
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        uploaded = (scope["method"], scope["path"].rstrip("/")) == UPLOAD
        deadline = asyncio.get_running_loop().time() + (self._upload_timeout if uploaded else self._body_timeout)
        whole, arrived, held, who = False, 0, 0, ""

        async def receive_in_time() -> Any:
            nonlocal whole, arrived, held, who
            if whole:  # only a disconnect can follow
                return await receive()
            if _is_encoded(scope):
                raise UnsupportedEncoding
            who = _key_id(scope)
            try:
                async with asyncio.timeout_at(deadline):
                    message: Any = await receive()
            except TimeoutError:
                raise RequestTimeout from None
            if message["type"] == "http.disconnect":
                raise RequestAborted
            whole = not message.get("more_body", False)
            arrived += len(message.get("body", b""))
            if arrived > SMALL_BYTES and not uploaded:  # from here on it counts, whole
                more, held = arrived - held, arrived
                self._room -= more
                self._held[who] += more
                if self._room < 0 or self._held[who] > self._share:
                    raise RateLimited("Too many large requests are being read: try again in a moment")
            return message

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
                if not whole and message["status"] >= 400 and _has_body(scope):
                    headers.append((b"connection", b"close"))  # the rest of the body is not read
                message["headers"] = headers
            await send(message)

        try:
            self._hosts.check(scope["headers"])
        except ReflexError as error:
            await send_json(send_with_id, error.status, msgspec.json.encode(error.body()))
            return
        REQUEST_ID.set(request_id)
        try:
            await self._app(scope, receive_in_time, send_with_id)
        finally:
            self._room += held
            self._held[who] -= held
            if not self._held[who]:
                del self._held[who]


async def send_json(send: Send, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    """Answer without the framework."""
    length = b"%d" % len(body)
    own = [(b"content-type", b"application/json"), (b"content-length", length), *headers]
    await send({"type": "http.response.start", "status": status, "headers": own})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _key_id(scope: Scope) -> str:
    """Return the id of the key that the guard has found by now; a body is read only after it."""
    key = scope.get("state", {}).get("key")
    return key.id if key is not None else ""


def _has_body(scope: Scope) -> bool:
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])


def _is_encoded(scope: Scope) -> bool:
    return any(
        name == b"content-encoding" and value.strip().lower() not in (b"", b"identity")
        for name, value in scope["headers"]
    )


def _request_id(scope: Scope) -> str:
    """Return the caller's x-request-id if it is harmless, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and CALLERS_ID.fullmatch(text := value.decode("latin-1")):
            return text
    return new_request_id()
