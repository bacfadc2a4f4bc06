"""Decides what can be said of an operation in the published description, and which errors all of a kind share."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from reflexd.errors import (
    AuthenticationFailed,
    BodyTooLarge,
    HeadTooLarge,
    InsufficientScope,
    InvalidJSON,
    InvalidRequest,
    MisdirectedRequest,
    OriginNotAllowed,
    ReflexError,
    RequestTimeout,
    StorageFull,
    UnsupportedEncoding,
)


class Operation(Struct, frozen=True, kw_only=True):
    """What is said of one method of one path; summary and description begin with the handler's docstring."""

    id: str
    tag: str
    description: str = ""
    answer: Any = None
    """Example of the 200, or several by name."""
    answers: dict[str, Any] = {}
    stream: Any = None
    """Example of one event of the 200 as server-sent events."""
    stream_schema: str = "StreamedEvent"
    """The component that describes such an event."""
    errors: tuple[ReflexError, ...] = ()
    body: type | str | dict[str, Any] | None = None
    """The Struct that it is decoded to, the name of a component, or a schema of its own."""
    body_media: str = "application/json"
    requests: dict[str, Any] = {}
    """Examples of the body, by what they show."""
    parameters: dict[str, dict[str, Any]] = {}
    """By name: what is said of a parameter of the handler, or a whole parameter that the handler reads by itself."""
    other: dict[str, dict[str, Any]] = {}
    """Answers in another shape than the error's, by status."""
    media: str = "application/json"
    """Of the 200."""


LIMIT = {"description": "How many objects a page may hold."}

# Checked before the route is known: by the protocol, and by the look at Host and Origin.
ALWAYS = (
    InvalidRequest("A request needs exactly one Host header"),
    OriginNotAllowed(),
    RequestTimeout("The request did not arrive in time"),
    MisdirectedRequest(),
    HeadTooLarge(),
)
PRIVATE = (AuthenticationFailed(), InsufficientScope(), ReflexError())
STORED = (*PRIVATE, StorageFull())
BODY = (InvalidJSON(), BodyTooLarge(), UnsupportedEncoding())
BAD_LIMIT = InvalidRequest("limit: Expected `int` <= 100", param="limit")
