"""Decides the route of /v1/chat/completions: whole or as a stream, which begins when its answer is known."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from litestar import Request, post
from litestar.response.sse import ServerSentEventMessage

from reflexd.api.callers import unless_gone
from reflexd.api.streams import EventStream
from reflexd.schemas.apply import ChatCompletion
from reflexd.service.chat import ChatService, chunks
from reflexd.store.keys import Key


@post("/v1/chat/completions", status_code=200, opt={"scope": "predict"})
async def chat_completion(
    request: Request[Any, Any, Any], body: bytes, key: Key, chat: ChatService
) -> ChatCompletion | EventStream:
    """Apply a lazy edit to a file, or answer a chat; with `stream: true` as server-sent events.

    A refusal is known before a stream's first byte, and answered as any other.
    """
    asked = chat.read(body)
    whole = await unless_gone(request, chat.complete(key, asked))
    if not asked.stream:
        return whole
    with_usage = asked.stream_options is not None and asked.stream_options.include_usage is True
    return EventStream(_frames(whole, with_usage))


async def _frames(whole: ChatCompletion, with_usage: bool) -> AsyncGenerator[ServerSentEventMessage, None]:
    for chunk in chunks(whole, with_usage=with_usage):
        yield ServerSentEventMessage(data=msgspec.json.encode(chunk), sep="\n")
    yield ServerSentEventMessage(data="[DONE]", sep="\n")
