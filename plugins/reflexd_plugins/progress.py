"""Decides how often a source that works for minutes says how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

EVERY_SECONDS = 10.0

T = TypeVar("T")


def told(items: Iterable[T], count: int, what: str, emit: Callable[[str], None]) -> Iterator[T]:
    """Yield the items and say every ten seconds how many of `count` there were, and how many a second."""
    began = said = time.monotonic()
    for number, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - said >= EVERY_SECONDS:
            said = now
            emit(f"{number} of {count} {what}, {number / (now - began):.1f} a second")
