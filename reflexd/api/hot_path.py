"""Decides which predict requests skip the framework: the plain and small ones, which nearly all of them are.

A forward leaves the processor's caches cold, so all that runs between two of them costs several times what it does in
a loop: the framework, its envelope and the checks took .4 ms a request on a machine whose forward of 64 tokens takes 7.
What is looked at here is looked at in the same way; whatever is not plain goes the other way, which knows all cases and
all errors.
"""

from __future__ import annotations

import asyncio

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from reflexd.api.callers import WATCHED_BYTES
from reflexd.api.envelope import send_json
from reflexd.api.errors import told
from reflexd.api.hosts import AllowedHosts
from reflexd.api.protocol import body_at_once, new_request_id, send_at_once
from reflexd.config import Http
from reflexd.errors import ReflexError, RequestTimeout
from reflexd.observability import REQUEST_ID
from reflexd.service.predictions import PredictionService
from reflexd.store.keys import Key, KeyStore

PATH = "/v1/reflex/predict"
KNOWN_HOSTS = 256
_JSON = b"content-type: application/json\r\nx-request-id: %b\r\n"
NOT_PLAIN = frozenset({b"origin", b"content-encoding", b"transfer-encoding", b"x-request-id"})
"""Headers, beside those that are read here, which may change the answer; no other does."""


class HotPath:
    """Answers plain predict requests itself and gives all others to the application."""

    def __init__(
        self,
        app: ASGIApp,
        hosts: AllowedHosts,
        keys: KeyStore,
        predictions: PredictionService,
        http: Http,
    ) -> None:
        self._app = app
        self._hosts = hosts
        self._keys = keys
        self._predictions = predictions
        self._body_timeout = http.body_timeout_seconds
        self._most_bytes = min(WATCHED_BYTES - 1, http.max_body_bytes)
        self._allowed: set[bytes] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope."""
        key = self._caller(scope) if scope["type"] == ScopeType.HTTP and scope["path"] == PATH else None
        if key is None:
            await self._app(scope, receive, send)
            return
        request_id = new_request_id()
        REQUEST_ID.set(request_id)
        headers = [(b"x-request-id", request_id.encode())]
        try:
            body = body_at_once(receive)
            if body is None:
                body = await self._read(receive)
            if body is None:
                return
            answer, status = await self._predictions.predict(key, body), 200
            if send_at_once(send, status, _JSON % request_id.encode(), answer):
                return
        except RequestTimeout as error:
            answer, status = msgspec.json.encode(error.body()), error.status
            headers.append((b"connection", b"close"))  # the rest of the body is not read
        except Exception as error:
            known = told(error)
            answer, status = msgspec.json.encode(known.body()), known.status
            headers += [(name.encode(), value.encode()) for name, value in known.headers.items()]
        await send_json(send, status, answer, headers)

    def _caller(self, scope: HTTPScope) -> Key | None:
        """Return the key of a plain request that may predict; None for any other."""
        headers = list(scope["headers"])
        given = dict(headers)
        if scope["method"] != "POST" or len(given) != len(headers) or not NOT_PLAIN.isdisjoint(given):
            return None  # a header that is sent twice is not plain either
        length, host = given.get(b"content-length", b""), given.get(b"host", b"")
        if len(length) > 5 or not length.isdigit() or int(length) > self._most_bytes or not self._allows(host):
            return None
        scheme, _, secret = given.get(b"authorization", b"").partition(b" ")
        if scheme != b"Bearer":
            return None
        key = self._keys.find(secret.decode("latin-1").strip())
        return key if key is not None and "predict" in key.scopes else None

    def _allows(self, host: bytes) -> bool:
        if host in self._allowed:
            return True
        try:
            self._hosts.check([(b"host", host)])
        except ReflexError:
            return False
        if len(self._allowed) < KNOWN_HOSTS:
            self._allowed.add(host)
        return True

    async def _read(self, receive: Receive) -> bytes | None:
        """Return the body; None where the caller has gone. Raises RequestTimeout for one that drips in."""
        whole = b""
        try:
            async with asyncio.timeout(self._body_timeout):
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        return None
                    whole += message["body"]
                    if not message["more_body"]:
                        return whole
        except TimeoutError:
            raise RequestTimeout from None
