"""Decides who may use an accelerator now: the language model or training, never both, for its memory is one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

Use = Literal["training", "llm"]


class Device:
    """The machine's device; where it is the processor, everybody uses it at once."""

    def __init__(self, exclusive: bool) -> None:
        """`exclusive`: it is an accelerator, whose memory the language model would fill."""
        self._exclusive = exclusive
        self._use: Use = "training"
        self._users = 0
        self._waiting: deque[tuple[Use, asyncio.Future[None]]] = deque()

    def wanted(self, use: Use) -> bool:
        """Whether somebody waits to use it so."""
        return any(wish == use and not told.done() for wish, told in self._waiting)

    @asynccontextmanager
    async def using(self, use: Use) -> AsyncIterator[None]:
        """Wait until nobody uses it otherwise, and hold it."""
        await self.acquire(use)
        try:
            yield
        finally:
            self.release()

    async def acquire(self, use: Use) -> None:
        """Wait until nobody uses it otherwise, and hold it until `release`; who waited first is first."""
        if not self._exclusive:
            return
        told = asyncio.get_running_loop().create_future()
        self._waiting.append((use, told))
        self._admit()
        try:
            await told
        except asyncio.CancelledError:
            if told.done() and not told.cancelled():  # it was given, and nobody is left to have it
                self.release()
            else:
                self._admit()
            raise

    def release(self) -> None:
        """Let go of it."""
        if self._exclusive:
            self._users -= 1
            self._admit()

    def _admit(self) -> None:
        while self._waiting:
            use, told = self._waiting[0]
            if told.cancelled():
                self._waiting.popleft()
            elif self._users and self._use != use:
                return
            else:
                self._waiting.popleft()
                self._use, self._users = use, self._users + 1
                told.set_result(None)
