"""Decides who answers a chat completion: an apply model's name means a merge, any other one the local language model.

A name that begins as the apply models' do and is none of them is refused: a misspelt one must not make a language model
write somebody's file.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any

import msgspec
from msgspec import Struct

from reflexd.config import Apply
from reflexd.engine.apply.model import Lease
from reflexd.engine.llm.direct import Direct, NoAnswer
from reflexd.errors import (
    InvalidRequest,
    LLMFailed,
    ModelNotFound,
    NotSupportedYet,
    RateLimited,
    SourceTooLarge,
    Unavailable,
)
from reflexd.schemas.apply import (
    MODELS,
    AssistantMessage,
    ChatChunk,
    ChatCompletion,
    ChatRequest,
    Choice,
    ChunkChoice,
    Delta,
    Usage,
)
from reflexd.service.apply import ApplyService
from reflexd.service.apply_prompt import characters_of, last_user_text, read_prompt, text_of
from reflexd.service.decoding import decode
from reflexd.store.keys import Key

RESERVED = "morph-"
CHARACTERS_A_TOKEN = 4
PIECE_CHARS = 16_384
"""Of one chunk's content."""
MOST_OF_A_BODY = 13
"""A character of one byte is six in JSON at most; with as much for the update and some more a body has no need to be
longer than so many times the largest file."""
LEASE_SECONDS = 300.0
"""A caller waits so long for the language model to be there; one may take minutes to start."""
PASSED_ON = ("temperature", "top_p", "max_tokens", "stop", "seed")


class _Said(Struct):
    content: str | None = None


class _Choice(Struct):
    message: _Said
    finish_reason: str | None = None


class _Counted(Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Answer(Struct):
    choices: list[_Choice]
    usage: _Counted | None = None


class LanguageModel(Struct, frozen=True):
    """The local language model: how it is had, and what is missing where it is not."""

    direct: Direct
    lease: Lease
    missing: Callable[[], str | None]


class ChatService:
    """Answers chat completions."""

    def __init__(self, apply: ApplyService, llm: LanguageModel, options: Apply) -> None:
        self._apply = apply
        self._llm = llm
        self._most_bytes = MOST_OF_A_BODY * options.file_bytes
        self._per_key = options.concurrent_per_key
        self._under_way: Counter[str] = Counter()

    def read(self, body: bytes) -> ChatRequest:
        """Decode a request and check what can be checked at once; raises InvalidRequest."""
        if len(body) > self._most_bytes:
            raise SourceTooLarge
        asked = decode(body, ChatRequest)
        if asked.n not in (None, 1):
            raise InvalidRequest("There is one answer: n must be 1", param="n")
        if asked.model not in MODELS and asked.model.startswith(RESERVED):
            raise ModelNotFound(f"The apply models are {', '.join(MODELS)}", param="model")
        return asked

    async def complete(self, key: Key, asked: ChatRequest) -> ChatCompletion:
        """Return the whole answer; raises what ApplyService.apply does, and ModelNotFound."""
        if self._under_way[key.id] >= self._per_key:
            raise RateLimited("This API key has as many chats under way as [apply] concurrent_per_key allows")
        self._under_way[key.id] += 1
        try:
            return await (self._merge(asked) if asked.model in MODELS else self._ask(asked))
        finally:
            self._under_way[key.id] -= 1
            if not self._under_way[key.id]:
                del self._under_way[key.id]

    async def _merge(self, asked: ChatRequest) -> ChatCompletion:
        """Return the file that the last user message asks for."""
        text = last_user_text(asked.messages)
        applied = await self._apply.apply(asked.model, read_prompt(text))
        read = sum(map(characters_of, asked.messages))
        usage = _usage(_tokens(read), _tokens(len(applied.content)))
        return _completion(asked.model, applied.content, usage, reflexd=applied.verdict)

    async def _ask(self, asked: ChatRequest) -> ChatCompletion:
        """Return what the local language model answers."""
        if (missing := self._llm.missing()) is not None:
            raise ModelNotFound(
                f"There is no such model: the apply models are {', '.join(MODELS)}, and no local language model answers"
                f" here ({missing})",
                param="model",
            )
        if asked.tools:
            raise NotSupportedYet(param="tools")
        messages = [{"role": each.role, "content": text_of(each, n)} for n, each in enumerate(asked.messages)]
        given = {name: value for name in PASSED_ON if (value := getattr(asked, name)) is not None}
        if asked.max_completion_tokens is not None:
            given["max_tokens"] = asked.max_completion_tokens
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(LEASE_SECONDS):
                    access = await stack.enter_async_context(self._llm.lease())
                answer = await self._llm.direct.post(access, "chat/completions", {"messages": messages, **given})
                model = access.model
            found = msgspec.convert(answer, _Answer)
            first = found.choices[0]
        except TimeoutError as error:
            told = (
                f"The language model could not be had within {LEASE_SECONDS:g} seconds: it starts, or training has its"
            )
            raise Unavailable(f"{told} device. Try again later") from error
        except LLMFailed as failure:
            raise Unavailable(failure.message) from failure
        except NoAnswer as error:
            if error.status == RateLimited.status:
                raise RateLimited("The language model has as much to do as it takes: try again in a moment") from error
            if error.status in (400, 404, 413, 422):
                raise InvalidRequest(f"The language model refuses this: {error}", param="messages") from error
            raise Unavailable(f"The language model gives no answer: {error}") from error
        except (msgspec.ValidationError, IndexError) as error:
            raise Unavailable("The language model gives no answer: it is no chat's") from error
        content = first.message.content or ""
        usage = found.usage or _Counted(_tokens(sum(len(each["content"]) for each in messages)), _tokens(len(content)))
        finish = "length" if first.finish_reason == "length" else "stop"
        counted = _usage(usage.prompt_tokens, usage.completion_tokens)
        return _completion(model, content, counted, finish)


def chunks(whole: ChatCompletion, *, with_usage: bool) -> Iterator[ChatChunk]:
    """Yield an answer in pieces, as OpenAI streams them."""
    choice = whole.choices[0]
    content = choice.message.content
    more: dict[str, Any] = {"usage": None} if with_usage else {}

    def chunk(**given: Any) -> ChatChunk:
        return ChatChunk(id=whole.id, created=whole.created, model=whole.model, **{**more, **given})

    yield chunk(choices=[ChunkChoice(delta=Delta(role="assistant", content=""))], reflexd=whole.reflexd)
    for start in range(0, len(content), PIECE_CHARS):
        yield chunk(choices=[ChunkChoice(delta=Delta(content=content[start : start + PIECE_CHARS]))])
    yield chunk(choices=[ChunkChoice(delta=Delta(), finish_reason=choice.finish_reason)])
    if with_usage:
        yield chunk(choices=[], usage=whole.usage)


def _completion(model: str, content: str, usage: Usage, finish: Any = "stop", **more: Any) -> ChatCompletion:
    return ChatCompletion(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=model,
        choices=[Choice(message=AssistantMessage(content=content), finish_reason=finish)],
        usage=usage,
        **more,
    )


def _usage(read: int, written: int) -> Usage:
    return Usage(read, written, read + written)


def _tokens(characters: int) -> int:
    return -(-characters // CHARACTERS_A_TOKEN)
