"""Decides how a language model is asked for the whole new file, and what of its answer is taken for it.

An apply model gets a chat of one turn, in the tags that callers use here; a plain one gets the same as a text to go on
with. Whether the file is believed is decided elsewhere (verification.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Literal

import msgspec
from msgspec import Struct

from reflexd.config import Apply
from reflexd.engine.llm.direct import Direct, NoAnswer
from reflexd.errors import LLMFailed
from reflexd.schemas.worker import LLMAccess

OPENED, CLOSED = "<updated-code>", "</updated-code>"
TASK = (
    "Below are a file and an update of it. Write the whole file as it is after the update. Where the update has a"
    " comment that stands for existing code, put that code. Change nothing else; keep indentation, comments and order."
    f" Put the file between {OPENED} and {CLOSED}, and write nothing besides."
)
CHARACTERS_A_TOKEN = 2
SPARE_TOKENS = 256
LEASE_SECONDS = 90.0
"""For a language model that must be started first."""
FENCE = "```"

Lease = Callable[[], AbstractAsyncContextManager[LLMAccess]]


class _Message(Struct):
    content: str | None = None


class _Choice(Struct):
    message: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Completion(Struct):
    choices: list[_Choice]


class ApplyModel:
    """The model that is asked where the engine refuses, or before it."""

    def __init__(self, direct: Direct, lease: Lease, path: Literal["chat/completions", "completions"]) -> None:
        """`lease` gives the server for as long as it is asked; `path` is what it is asked at."""
        self._direct = direct
        self._lease = lease
        self._path = path

    async def ask(self, instruction: str, original: str, update: str) -> str:
        """Return the file that the model gives, unchecked; raises NoAnswer."""
        said = f"<instruction>{instruction}</instruction>\n" if instruction else ""
        prompt = f"{TASK}\n\n{said}<code>{original}</code>\n<update>{update}</update>"
        body: dict[str, Any] = {"temperature": 0}
        if self._path == "completions":
            longest = (len(original) + len(update)) // CHARACTERS_A_TOKEN + SPARE_TOKENS
            body |= {"prompt": f"{prompt}\n\n{OPENED}", "stop": [CLOSED], "max_tokens": longest}
        else:
            body["messages"] = [{"role": "user", "content": prompt}]
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(LEASE_SECONDS):  # a job may have the LLM's device for hours
                    access = await stack.enter_async_context(self._lease())
                answer = await self._direct.post(access, self._path, body)
            first = msgspec.convert(answer, _Completion).choices[0]
        except TimeoutError as error:
            raise NoAnswer(f"it could not be had within {LEASE_SECONDS:g} seconds") from error
        except LLMFailed as failure:
            raise NoAnswer(failure.why) from failure
        except (msgspec.ValidationError, IndexError) as error:
            raise NoAnswer("it answered with no completion") from error
        if first.finish_reason == "length":
            raise NoAnswer("its answer was cut off")
        return file_of((first.message.content if first.message else first.text) or "")


def file_of(answer: str) -> str:
    """Return the file in an answer: what stands in the tags it was asked for, else in a fence around all of it."""
    _, tag, rest = answer.partition(OPENED)
    if tag or CLOSED in answer:
        return (rest if tag else answer).rpartition(CLOSED)[0] or rest
    lines = answer.strip().split("\n")
    if len(lines) > 2 and lines[0].startswith(FENCE) and lines[-1].strip() == FENCE:
        return "\n".join(lines[1:-1])
    return answer


def server_of(options: Apply) -> Lease:
    """Return the access to the server at [apply] url, which somebody else runs."""

    @asynccontextmanager
    async def lease() -> AsyncIterator[LLMAccess]:
        yield LLMAccess(
            url=options.url.rstrip("/"),
            key=options.api_key,
            model=options.model,
            concurrency=1,
            answer_seconds=options.answer_seconds,
            patience_seconds=0,
        )

    return lease
