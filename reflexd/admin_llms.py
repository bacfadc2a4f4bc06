"""Decides what an operator may do with language models: import, list and remove them, start and stop their process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reflexd.service.llms import LanguageModelService


class LanguageModelVerbs:
    """The verbs of `reflexd llm` by name in `table`; each raises LanguageModelRefused with the sentence to be read."""

    def __init__(self, llms: Callable[[], LanguageModelService]) -> None:
        """`llms` gives the service; importing it takes a moment that most other verbs can do without."""
        self._llms = llms
        self.table: dict[str, Callable[..., Awaitable[Any]]] = {
            "llm.import": self.add,
            "llm.list": self.list_all,
            "llm.remove": self.remove,
            "llm.status": self.status,
            "llm.start": self.start,
            "llm.stop": self.stop,
        }

    async def add(self, paths: list[str], name: str = "") -> dict[str, Any]:
        """Import the language model that lies in these paths."""
        return await self._llms().add(paths, name)

    async def list_all(self) -> list[dict[str, Any]]:
        """List the imported language models, newest first."""
        return await self._llms().rows()

    async def remove(self, name: str) -> dict[str, Any]:
        """Remove an imported language model."""
        return await self._llms().remove(name)

    async def status(self) -> dict[str, Any]:
        """Say what is set up, and how the process of the language model is."""
        return await self._llms().status()

    async def start(self) -> dict[str, Any]:
        """Start the language model in the running daemon."""
        return await self._llms().start()

    async def stop(self) -> dict[str, Any]:
        """Stop the language model in the running daemon."""
        return await self._llms().stop()
