"""Decides which edits tests of Apply send, and how they are sent: by the official SDK, in strict mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.daemons import Daemon, processes

WORKER = "reflexd.engine.apply.worker"
PATH = "/v1/chat/completions"
FILE = """\
import os


def first(value):
    total = value + 1
    return total


def second(value):
    total = value * 2
    return total


def third(value):
    return first(value) + second(value)
"""
UPDATE = """\
# ... existing code ...

def second(value):
    total = value * 3
    return total

# ... existing code ...
"""
MERGED = FILE.replace("value * 2", "value * 3")
TWICE = "def a():\n    x = 1\n    return x\n\n\ndef b():\n    x = 1\n    return x\n"
DOUBTFUL = "# ... existing code ...\n    x = 1\n    y = 2\n    return x\n# ... existing code ...\n"
"""Fits both functions of TWICE."""
SLOW = "\n".join(f"value_{number} = {number}" for number in range(2000)) + "\n"
"""Long enough that its merge is met under way: it is read by a process that stands still."""


def prompt(code: str, update: str, instruction: str = "", between: str = "\n") -> str:
    said = f"<instruction>{instruction}</instruction>\n" if instruction else ""
    return f"{said}<code>{code}</code>{between}<update>{update}</update>"


def ask(client: openai.OpenAI, content: Any, model: str = "morph-v3-fast", **more: Any) -> ChatCompletion:
    found: ChatCompletion = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": content}], **more
    )
    return found


def applied(client: openai.OpenAI, code: str, update: str, model: str = "morph-v3-fast") -> str:
    content = ask(client, prompt(code, update), model).choices[0].message.content
    assert content is not None
    return content


def verdict(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = answer.model_extra["reflexd"]
    return found


def refused(client: openai.OpenAI, code: str, update: str, model: str = "morph-v3-fast") -> dict[str, Any]:
    """Return the error object of a request that must be refused."""
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        ask(client, prompt(code, update), model)
    body = caught.value.body
    assert isinstance(body, dict)
    assert (caught.value.code, caught.value.type) == ("apply_refused", "invalid_request_error")
    return body


def workers(daemon: Daemon) -> list[int]:
    return [pid for pid, parent in processes(WORKER) if parent == daemon.pid]


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
