"""Decides how a request body becomes a Struct, and how what is wrong with it is told: always naming the field."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import msgspec

from reflexd.errors import InvalidJSON, InvalidRequest

T = TypeVar("T")

LOCATED_BYTES = 1_000_000
"""A larger body is refused without saying which string of it is wrong: finding out would hold up everybody."""
ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
SURROGATE = re.compile("[\ud800-\udfff]")


def decode(body: bytes | memoryview, kind: type[T]) -> T:
    """Decode a JSON body; raises InvalidJSON, or InvalidRequest with the path of the offending field as param.

    A part of a body is best given as a view: it may be most of it, and need not be copied.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise field_error(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        param = _lone_surrogate(body)
        if param is not None:
            raise InvalidJSON("A string holds a lone surrogate, which is not valid Unicode", param=param) from error
        raise InvalidJSON(f"The request body is not valid JSON: {error}") from error


def decode_field(name: str, raw: msgspec.Raw, kind: Any = object) -> Any:
    """Decode one field's JSON without copying it; what is wrong in it is told with the field's name before the path."""
    try:
        return decode(memoryview(raw), kind)
    except InvalidRequest as error:
        inside = error.param or ""
        dot = "." if inside and not inside.startswith("[") else ""
        raise type(error)(error.message, param=name + dot + inside) from error


def convert(value: Any, kind: Any, prefix: str = "") -> Any:
    """Convert decoded JSON to a type; raises InvalidRequest with `prefix` before the field's path."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise field_error(error, prefix) from error


def field_error(error: msgspec.ValidationError, prefix: str = "") -> InvalidRequest:
    """Turn msgspec's "... - at `$.a[3].b`" into an error whose param is `a[3].b`."""
    message, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`")
    if "missing required field `" in message:
        path += "." + message.rpartition("missing required field `")[2].rstrip("`")
    param = (prefix + path).lstrip(".")
    return InvalidRequest(f"{message}" + (f" (in {param})" if param else ""), param=param or None)


def _lone_surrogate(body: bytes | memoryview) -> str | None:
    r"""Return the path of the first string with a lone \ud800 escape in it; None where that is not what is wrong."""
    if len(body) > LOCATED_BYTES or not ESCAPED_SURROGATE.search(body):
        return None
    try:
        value = json.loads(bytes(body))  # unlike msgspec it lets them through, so that the field can be named
    except (ValueError, RecursionError):
        return None
    pending: list[tuple[str, Any]] = [("", value)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, str) and SURROGATE.search(value):
            return path.lstrip(".")
        if isinstance(value, list):
            pending.extend((f"{path}[{number}]", item) for number, item in reversed(list(enumerate(value))))
        elif isinstance(value, dict):
            pending.extend((f"{path}.{name}", item) for name, item in reversed(value.items()))
    return None
