"""Decides which chats are understood: turns of text, and of OpenAI's other fields those that completions have too."""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from reflexd.engine.llm.embedded.wire import MAX_STOPS, Completion, Refused, Text, Wish, named

MOST_MESSAGES = 1024


class Message(Struct, forbid_unknown_fields=True):
    """A turn of the chat."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str


class ChatRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/chat/completions."""

    model: str
    messages: Annotated[list[Message], Meta(min_length=1, max_length=MOST_MESSAGES)]
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    """None: as many as the context has room for."""
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = 1.0
    seed: int | None = None
    stop: Text | Annotated[list[Text], Meta(max_length=MAX_STOPS)] | None = None


_decode = msgspec.json.Decoder(ChatRequest).decode


def read_chat(body: bytes, model: str) -> tuple[list[dict[str, str]], Wish]:
    """Return the turns, and what is wished of the answer, max_tokens 0 where nothing is said of it; raises Refused."""
    try:
        asked = _decode(body)
    except msgspec.ValidationError as error:
        raise named(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Refused(400, "The body is not JSON") from None
    if asked.model != model:
        raise Refused(404, f"This server has one model: {model}", code="model_not_found", param="model")
    wish = Wish(
        max_tokens=asked.max_tokens or 0,
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        seed=asked.seed,
        stop=tuple([asked.stop] if isinstance(asked.stop, str) else asked.stop or []),
        echo=False,
        logprobs=None,
    )
    return [{"role": each.role, "content": each.content} for each in asked.messages], wish


def chat_response(model: str, done: Completion) -> dict[str, Any]:
    """Return OpenAI's `chat.completion`."""
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": done.text, "refusal": None},
                "finish_reason": done.finish_reason,
                "logprobs": None,
            }
        ],
        "usage": {
            "prompt_tokens": done.prompt_tokens,
            "completion_tokens": done.completion_tokens,
            "total_tokens": done.prompt_tokens + done.completion_tokens,
        },
    }
