"""Decides what the daemon and an apply process say to each other: MessagePack, each message behind its length."""

from __future__ import annotations

import msgspec
from msgspec import Struct

LENGTH_BYTES = 4
"""Big-endian, before each message."""


class Edit(Struct, frozen=True, tag="merge"):
    """Merge an update into a file."""

    original: str
    update: str


class Proposal(Struct, frozen=True, tag="verify"):
    """Check the file that a model gave for an update."""

    original: str
    update: str
    output: str


class Ready(Struct, frozen=True, tag="ready"):
    """The process has imported what it needs."""


class Done(Struct, frozen=True, tag="done", kw_only=True):
    """The new file; its changed lines from 1 ([first, last], in their order); how sure it is, None for a model's."""

    text: str
    changed: list[tuple[int, int]]
    confidence: float | None = None


class Refused(Struct, frozen=True, tag="refused", kw_only=True):
    """Why there is no new file; a line of the update and lines of the file, from 0."""

    reason: str
    message: str
    line: int | None = None
    candidates: list[int] = []


class Failed(Struct, frozen=True, tag="failed"):
    """The engine failed: the type of the exception and the places that it came through, and nothing of the file."""

    error: str
    where: list[str]


Answer = Ready | Done | Refused | Failed
_encode = msgspec.msgpack.Encoder().encode
decode_task = msgspec.msgpack.Decoder(Edit | Proposal).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode


def framed(message: Struct) -> tuple[bytes, bytes]:
    """Return a message's length as it is sent, and the message."""
    content = _encode(message)
    return len(content).to_bytes(LENGTH_BYTES, "big"), content
