"""Decides how a request body becomes a Struct, and how what is wrong with it is told: always naming the field."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from reflexd.errors import InvalidJSON, InvalidRequest

T = TypeVar("T")


def decode(body: bytes, kind: type[T]) -> T:
    """Decode a JSON body; raises InvalidJSON, or InvalidRequest with the path of the offending field as param."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise field_error(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidJSON(f"The request body is not valid JSON: {error}") from error


def convert(value: Any, kind: Any, prefix: str = "") -> Any:
    """Convert decoded JSON to a type; raises InvalidRequest with `prefix` before the field's path."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise field_error(error, prefix) from error


def field_error(error: msgspec.ValidationError, prefix: str = "") -> InvalidRequest:
    """Turn msgspec's "... - at `$.a[3].b`" into an error whose param is `a[3].b`."""
    message, _, path = str(error).partition(" - at `$")
    param = (prefix + path.rstrip("`")).lstrip(".")
    if not path and "missing required field `" in message:
        param = message.rpartition("missing required field `")[2].rstrip("`")
    return InvalidRequest(f"{message}" + (f" (in {param})" if param else ""), param=param or None)
