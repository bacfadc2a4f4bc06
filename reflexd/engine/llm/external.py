"""Decides how an OpenAI-compatible server that somebody else runs ([llm] url) stands in for the local LLM."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from reflexd.config import Llm, Network
from reflexd.egress.policy import Policy
from reflexd.errors import NotAllowedOut, StartupError
from reflexd.schemas.worker import LLMAccess

CONCURRENCY = 16


class External:
    """A server at an address that the operator gave."""

    def __init__(self, options: Llm, network: Network) -> None:
        """Raise StartupError for an address that cannot be used, or that may not be reached offline."""
        check_server("llm", options.url, options.model, network)
        self._options = options

    @asynccontextmanager
    async def lease(self, *, brief: bool = False) -> AsyncIterator[LLMAccess]:  # noqa: ARG002 - as Keeper's
        """Give the access; whether the server answers is found out by asking it."""
        options = self._options
        yield LLMAccess(
            url=options.url.rstrip("/"),
            key=options.api_key,
            model=options.model,
            concurrency=options.concurrency or CONCURRENCY,
            answer_seconds=options.answer_seconds,
            patience_seconds=options.start_seconds,
        )

    async def start(self) -> None:
        """Do nothing: somebody else starts it."""

    async def stop(self) -> None:
        """Do nothing: somebody else stops it."""

    async def close(self) -> None:
        """Do nothing."""

    async def status(self) -> dict[str, Any]:
        """Return what the operator is to know."""
        return {"state": "external", "model": self._options.model, "engine": self._options.url}


def check_server(section: str, url: str, model: str, network: Network) -> None:
    """Raise StartupError where the server that a section of the configuration names cannot or may not be asked."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise StartupError(f"[{section}] url: {url} must be like http://host:port/v1")
    if not model:
        raise StartupError(
            f"[{section}] model: the model that the server at [{section}] url is to be asked for must be named"
        )
    if network.offline and not _is_loopback(parts.hostname):
        try:
            Policy(network).check_url(url)
        except NotAllowedOut as error:
            raise StartupError(f"[{section}] url: {error}") from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
