"""Decides which completions are understood: OpenAI's fields, each obeyed, harmless or refused by name."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

MAX_PROMPTS = 2048
MAX_STOPS = 16
MAX_LOGPROBS = 5

Text = Annotated[str, Meta(min_length=1)]


class Refused(Exception):
    """A request that is answered with an error of OpenAI's shape."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    def body(self) -> dict[str, Any]:
        """Return what is sent."""
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, "invalid_request_error")
        kind = "server_error" if self.status >= 500 else kind
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class CompletionRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/completions; what follows `logprobs` may only have the value that changes nothing."""

    model: str
    prompt: Text | Annotated[list[Text], Meta(min_length=1, max_length=MAX_PROMPTS)]
    max_tokens: Annotated[int, Meta(ge=0)] | None = 16
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = 1.0
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = 1.0
    seed: int | None = None
    stop: Text | Annotated[list[Text], Meta(max_length=MAX_STOPS)] | None = None
    echo: bool | None = False
    logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None

    n: int | None = 1
    best_of: int | None = 1
    presence_penalty: float | None = 0.0
    frequency_penalty: float | None = 0.0
    logit_bias: dict[str, float] | None = None
    suffix: str | None = None
    stream: bool | None = False
    stream_options: dict[str, Any] | None = None
    user: str | None = None


ONLY: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
    "stream": (False,),
}


class Wish(Struct, frozen=True):
    """How each prompt of a request is to be completed; nothing in it is absent."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop: tuple[str, ...]
    echo: bool
    logprobs: int | None

    @property
    def scores_prompt(self) -> bool:
        """Whether the prompt's own tokens get log-probabilities."""
        return self.echo and self.logprobs is not None


class ScoredToken(Struct, frozen=True):
    """A token as `logprobs` shows it; the first of a prompt has no log-probability."""

    text: str
    logprob: float | None = None
    top: dict[str, float] | None = None


class Completion(Struct, frozen=True):
    """What became of one prompt."""

    text: str
    """Of the answer alone."""
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    prompt_scores: list[ScoredToken]
    scores: list[ScoredToken]


_decode = msgspec.json.Decoder(CompletionRequest).decode


def read_request(body: bytes, model: str) -> tuple[list[str], Wish]:
    """Return the prompts and what is wished of each; raises Refused."""
    try:
        asked = _decode(body)
    except msgspec.ValidationError as error:
        raise named(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Refused(400, "The body is not JSON") from None
    if asked.model != model:
        raise Refused(404, f"This server has one model: {model}", code="model_not_found", param="model")
    for field, harmless in ONLY.items():
        value = getattr(asked, field)
        if value is not None and value not in harmless:
            raise Refused(400, f"{field} is not supported here", code="unsupported_parameter", param=field)
    stops = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    wish = Wish(
        max_tokens=16 if asked.max_tokens is None else asked.max_tokens,
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        seed=asked.seed,
        stop=tuple(stops),
        echo=bool(asked.echo),
        logprobs=asked.logprobs,
    )
    if wish.max_tokens == 0 and not wish.echo:
        raise Refused(400, "max_tokens may be 0 with echo only", param="max_tokens")
    return [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt, wish


def named(error: msgspec.ValidationError) -> Refused:
    """Return the refusal that names the field, wherever msgspec's sentence has it."""
    said = str(error)
    found = re.search(r"`\$\.(\w+)", said) or re.search(r"(?:unknown|required) field `(\w+)`", said)
    return Refused(400, said, param=found[1] if found else None)


def response(model: str, prompts: Sequence[str], wish: Wish, done: Sequence[Completion]) -> dict[str, Any]:
    """Return OpenAI's `text_completion`, its choices in the order of the prompts."""
    used = sum(one.prompt_tokens for one in done), sum(one.completion_tokens for one in done)
    return {
        "id": f"cmpl-{uuid.uuid4().hex}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": index,
                "text": (prompt if wish.echo else "") + one.text,
                "finish_reason": one.finish_reason,
                "logprobs": None if wish.logprobs is None else _logprobs(prompt, wish, one),
            }
            for index, (prompt, one) in enumerate(zip(prompts, done, strict=True))
        ],
        "usage": {"prompt_tokens": used[0], "completion_tokens": used[1], "total_tokens": sum(used)},
    }


def _logprobs(prompt: str, wish: Wish, done: Completion) -> dict[str, Any]:
    offsets, at = [], 0
    for token in done.prompt_scores:
        offsets.append(at)
        at += len(token.text)
    at = len(prompt) if wish.echo else 0
    for token in done.scores:
        offsets.append(at)
        at += len(token.text)
    shown = [*done.prompt_scores, *done.scores]
    return {
        "tokens": [token.text for token in shown],
        "token_logprobs": [token.logprob for token in shown],
        "text_offset": offsets,
        "top_logprobs": [token.top for token in shown],
    }
