"""Decides what the embedded server answers: health without a key, models, completions and chats with it.

A bare ASGI application: four routes need no framework, and a client that hangs up is seen in `receive`.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

import msgspec

from reflexd.engine.llm.embedded.chat import chat_response, read_chat
from reflexd.engine.llm.embedded.wire import Completion, Refused, Wish, read_request, response

if TYPE_CHECKING:  # it imports torch; the port is open before that
    from reflexd.engine.llm.embedded.engine import Engine

MAX_BODY = 16 << 20

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Gone(Exception):
    """The client hung up."""


class Application:
    """The routes; completions once `engine` is there."""

    def __init__(self, name: str, key: str) -> None:
        self._name, self._key = name, key
        self.engine: Engine | None = None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        try:
            status, body = 200, await self._answer(scope, receive)
        except Refused as refusal:
            status, body = refusal.status, refusal.body()
        except Gone:
            return
        content = msgspec.json.encode(body)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive) -> dict[str, Any]:
        path, method = scope["path"], scope["method"]
        if path == "/health":
            self._ready()
            return {"status": "ok"}
        # Before anything else: what there is, is nobody's business.
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, b"Bearer " + self._key.encode()):
            raise Refused(401, "Incorrect API key provided", code="invalid_api_key")
        if (method, path) == ("GET", "/v1/models"):
            return {
                "object": "list",
                "data": [{"id": self._name, "object": "model", "created": 0, "owned_by": "local"}],
            }
        if (method, path) == ("POST", "/v1/completions"):
            return await self._complete(self._ready(), await _body(receive), receive)
        if (method, path) == ("POST", "/v1/chat/completions"):
            return await self._chat(self._ready(), await _body(receive), receive)
        raise Refused(404, f"There is no {method} {path} here", code="not_found")

    def _ready(self) -> Engine:
        if self.engine is None:
            raise Refused(503, "The model is being loaded", code="loading")
        return self.engine

    async def _complete(self, engine: Engine, body: bytes, receive: Receive) -> dict[str, Any]:
        prompts, wish = read_request(body, self._name)
        return response(self._name, prompts, wish, await self._done(engine, prompts, wish, receive))

    async def _chat(self, engine: Engine, body: bytes, receive: Receive) -> dict[str, Any]:
        messages, wish = read_chat(body, self._name)
        # A prompt of megabytes takes seconds to be read; everybody else is answered meanwhile.
        prompt = await asyncio.to_thread(engine.prompt_of, messages)
        if not wish.max_tokens:
            wish = msgspec.structs.replace(wish, max_tokens=await asyncio.to_thread(engine.room_after, prompt))
        (done,) = await self._done(engine, [prompt], wish, receive)
        return chat_response(self._name, done)

    async def _done(self, engine: Engine, prompts: list[str], wish: Wish, receive: Receive) -> list[Completion]:
        """Return what becomes of the prompts; raises Gone."""
        rows = await asyncio.to_thread(engine.submit, prompts, wish)
        answers = asyncio.gather(*map(asyncio.wrap_future, rows))
        hung_up = asyncio.ensure_future(_hung_up(receive))
        try:
            await asyncio.wait((answers, hung_up), return_when=asyncio.FIRST_COMPLETED)
            if not answers.done():
                raise Gone
            return answers.result()
        finally:
            answers.cancel()  # what is left undone, when one failed too
            hung_up.cancel()


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise Refused(413, f"A body has at most {MAX_BODY} bytes")
        if not message.get("more_body"):
            return bytes(body)
