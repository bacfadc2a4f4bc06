"""Decides that a large request ends with its caller: its work is for nobody else."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from litestar import Request

from reflexd.errors import RequestAborted

T = TypeVar("T")
WATCHED_BYTES = 16_384
"""A smaller request is answered before its caller could be missed."""


async def unless_gone(request: Request[Any, Any, Any], work: Coroutine[Any, Any, T]) -> T:
    """Await the work; raise RequestAborted, and end it, when the caller hangs up."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise RequestAborted
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
