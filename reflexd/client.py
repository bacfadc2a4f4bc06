"""Decides how the command line talks to a daemon over HTTP: which address and key, and what is told when it fails."""

from __future__ import annotations

import os
from typing import Any

import click
import httpx2

from reflexd.errors import ServerUnreachable

DEFAULT_URL = "http://127.0.0.1:7335"


class Client:
    """A daemon's address and a key for it."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        self._http = httpx2.Client(base_url=url, headers={"authorization": f"Bearer {key}"} if key else {}, timeout=600)

    def request(self, method: str, path: str, body: Any = None) -> httpx2.Response:
        """Send one request; raises ServerUnreachable where nothing answers."""
        try:
            return self._http.request(method, path, json=body)
        except httpx2.TransportError as error:
            raise ServerUnreachable(f"nothing answers at {self.url}: is `reflexd serve` running? ({error})") from error

    def post(self, path: str, body: Any) -> Any:
        """POST JSON and return the answer's; raises click.ClickException with the daemon's own sentence."""
        return self._read(self.request("POST", path, body))

    def get(self, path: str) -> Any:
        """GET and return the answer's JSON; raises as `post` does."""
        return self._read(self.request("GET", path))

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """Return status and body of /readyz."""
        response = self.request("GET", "/readyz")
        return response.status_code, response.json()

    @staticmethod
    def _read(response: httpx2.Response) -> Any:
        if response.is_success:
            return response.json()
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = f"the server answered {response.status_code}"
        raise click.ClickException(message)


def from_environment() -> Client:
    """Return the client for REFLEXD_URL and REFLEXD_API_KEY, else OPENAI_BASE_URL and OPENAI_API_KEY."""
    url = os.environ.get("REFLEXD_URL") or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
    key = os.environ.get("REFLEXD_API_KEY") or os.environ.get("OPENAI_API_KEY") or ""
    return Client(url.rstrip("/").removesuffix("/v1"), key)
