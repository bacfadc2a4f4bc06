"""Decides the wire types of /v1/chat/completions: OpenAI's, and what is added to an answer about a merged file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

MODELS = ("morph-v3-fast", "morph-v3-large", "auto")
"""Those that merge an update into a file; any other name means the local language model."""


class ContentPart(Struct, frozen=True):
    """A part of a message's content; only text is read."""

    type: str
    text: str | None = None


class ChatMessage(Struct, frozen=True):
    """A turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None


class StreamOptions(Struct, frozen=True):
    """What else a stream is to have."""

    include_usage: bool | None = None


class ChatRequest(Struct, frozen=True, kw_only=True):
    """A completion of a chat. Fields that are not listed are accepted and mean nothing here."""

    model: str
    messages: Annotated[list[ChatMessage], Meta(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    tools: list[Any] | None = None


class Verdict(Struct, frozen=True, kw_only=True):
    """How a file was merged: by whom, how sure it is (1: nothing else came near; null: a model's), what is new in it.

    `changed` holds [first, last] lines of the answer, from 1.
    """

    engine: Literal["deterministic", "model"]
    confidence: float | None
    changed: list[tuple[int, int]]


class Usage(Struct, frozen=True):
    """Tokens, of a merged file a quarter of its characters."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AssistantMessage(Struct, frozen=True, kw_only=True):
    """The answer: of the apply models the whole new file."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(Struct, frozen=True, kw_only=True):
    """The one answer."""

    index: int = 0
    message: AssistantMessage
    finish_reason: Literal["stop", "length"] = "stop"
    logprobs: None = None


class ChatCompletion(Struct, frozen=True, kw_only=True):
    """A completion of a chat; `reflexd` only where a file was merged."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage
    reflexd: Verdict | UnsetType = UNSET


class Delta(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a chunk adds to the answer."""

    role: str | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(Struct, frozen=True, kw_only=True):
    """The one answer's next piece."""

    index: int = 0
    delta: Delta
    finish_reason: Literal["stop", "length"] | None = None
    logprobs: None = None


class ChatChunk(Struct, frozen=True, kw_only=True):
    """A piece of a streamed completion: the first has `reflexd`, one at the end `usage` where that was asked for."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    reflexd: Verdict | UnsetType = UNSET
