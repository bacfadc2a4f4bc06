"""Decides what the published description says of chat completions, which apply lazy edits to files."""

from __future__ import annotations

from typing import Any

import msgspec

from reflexd.api.openapi_operation import BODY, PRIVATE, Operation
from reflexd.errors import (
    ApplyRefused,
    ApplyTimeout,
    InvalidRequest,
    ModelNotFound,
    RateLimited,
    SourceTooLarge,
    Unavailable,
)
from reflexd.schemas.apply import AssistantMessage, ChatCompletion, ChatRequest, Choice, Usage, Verdict
from reflexd.service.apply_prompt import EXPECTED
from reflexd.service.chat import chunks

TAG = {"Chat": "Lazy edits applied to files, exactly or not at all, and the local language model where there is one."}

FILE = "def area(radius):\n    return 3.14 * radius**2\n\n\ndef name():\n    return 'circle'\n"
UPDATE = "import math\n\n\ndef area(radius):\n    return math.pi * radius**2\n\n\n# ... existing code ...\n"
MERGED = "import math\n\n\n" + FILE.replace("3.14", "math.pi")
COMPLETION = ChatCompletion(
    id="chatcmpl-0197c2d41c007a3b9f105b6c7d8e9f01",
    created=1_782_000_000,
    model="morph-v3-fast",
    choices=[Choice(message=AssistantMessage(content=MERGED))],
    usage=Usage(56, 27, 83),
    reflexd=Verdict(engine="deterministic", confidence=1.0, changed=[(1, 3), (5, 5)]),
)
STREAMED_CHUNK: dict[str, Any] = {
    "description": "One server-sent event.",
    "type": "object",
    "properties": {
        "data": {
            "type": "string",
            "description": "A chat.completion.chunk as JSON; at the end `[DONE]`.",
            "anyOf": [
                {"const": "[DONE]"},
                {
                    "contentMediaType": "application/json",
                    "contentSchema": {
                        "type": "object",
                        "properties": {"object": {"const": "chat.completion.chunk"}},
                        "required": ["id", "object", "created", "model", "choices"],
                    },
                },
            ],
        }
    },
    "required": ["data"],
}
IN_DOUBT: dict[str, Any] = {
    "description": "Only of `apply_refused`: what is in doubt. Lines count from 1, as they stand between the tags.",
    "type": "object",
    "properties": {
        "reason": {"type": "string", "description": "A word for programs."},
        "line": {"type": ["integer", "null"], "description": "The line of the update that is in doubt."},
        "candidates": {
            "type": "array",
            "items": {"type": "integer"},
            "description": "The lines of the file that it may mean, or between which lines are in doubt.",
        },
    },
    "required": ["reason", "line", "candidates"],
}


def _request(content: Any, **more: Any) -> dict[str, Any]:
    return {"model": "morph-v3-fast", "messages": [{"role": "user", "content": content}], **more}


CHAT: dict[tuple[str, str], Operation] = {
    ("POST", "/v1/chat/completions"): Operation(
        id="createChatCompletion",
        tag="Chat",
        description="The models `morph-v3-fast`, `morph-v3-large` and `auto` answer with the whole new file. "
        + EXPECTED
        + ". In the update a comment such as `// ... existing code ...` stands for lines that stay. An update that can"
        " be read in more than one way is refused. Any other model is the local language model, where there is one.",
        answer=COMPLETION,
        stream={"data": msgspec.json.encode(next(chunks(COMPLETION, with_usage=False))).decode()},
        stream_schema="StreamedChunk",
        errors=(
            *PRIVATE,
            *BODY,
            InvalidRequest(f"There is no </update>. {EXPECTED}", param="messages"),
            ModelNotFound(param="model"),
            SourceTooLarge(param="messages"),
            ApplyRefused(
                "The update fits the file in more than one way: show more around it (line 3 of the update: return x;"
                " line 10 or 50 of the file)",
                line=3,
                candidates=[10, 50],
            ),
            ApplyTimeout(),
            RateLimited("Too many updates are being applied: try again in a moment"),
            Unavailable("The language model gives no answer: it answered with 500"),
        ),
        body=ChatRequest,
        requests={
            "A file and its update": _request(f"<code>{FILE}</code>\n<update>{UPDATE}</update>"),
            "With an instruction, as a stream": _request(
                f"<instruction>Use math.pi</instruction>\n<code>{FILE}</code>\n<update>{UPDATE}</update>",
                stream=True,
                stream_options={"include_usage": True},
            ),
        },
    ),
}
