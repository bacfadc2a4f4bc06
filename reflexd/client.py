"""Decides how the command line talks to a daemon over HTTP: which address and key, and what is told when it fails."""

from __future__ import annotations

import ipaddress
import os
from typing import Any

import click
import httpx2

from reflexd.errors import ServerUnreachable

DEFAULT_URL = "http://127.0.0.1:7335"
PROBE_SECONDS = 5.0


class Client:
    """A daemon's address and a key for it."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url
        # A key for this machine must not travel to the proxy that the environment names for others.
        self._http = httpx2.Client(
            base_url=url,
            headers={"authorization": f"Bearer {key}"} if key else {},
            trust_env=not _is_this_machine(url),
        )

    def request(self, method: str, path: str, body: Any = None, timeout: float = 600) -> httpx2.Response:
        """Send one request; raises ServerUnreachable where nothing answers within `timeout` seconds."""
        try:
            return self._http.request(method, path, json=body, timeout=timeout)
        except httpx2.TransportError as error:
            raise ServerUnreachable(f"nothing answers at {self.url}: is `reflexd serve` running? ({error})") from error

    def post(self, path: str, body: Any) -> Any:
        """POST JSON and return the answer's; raises click.ClickException with the daemon's own sentence."""
        return self._read(self.request("POST", path, body))

    def get(self, path: str) -> Any:
        """GET and return the answer's JSON; raises as `post` does."""
        return self._read(self.request("GET", path))

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """Return status and body of /readyz; raises ServerUnreachable where something else than reflexd answers."""
        response = self.request("GET", "/readyz", timeout=PROBE_SECONDS)
        try:
            body: dict[str, Any] = response.json()
            return response.status_code, {"reasons": dict(body["reasons"])}
        except (ValueError, KeyError, TypeError) as error:
            raise ServerUnreachable(f"what answers at {self.url} is no reflexd") from error

    @staticmethod
    def _read(response: httpx2.Response) -> Any:
        if response.is_success:
            return response.json()
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = f"the server answered {response.status_code}"
        raise click.ClickException(message)


def _is_this_machine(url: str) -> bool:
    host = httpx2.URL(url).host
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def from_environment() -> Client:
    """Return the client for REFLEXD_URL and REFLEXD_API_KEY, else OPENAI_BASE_URL and OPENAI_API_KEY."""
    url = os.environ.get("REFLEXD_URL") or os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL
    key = os.environ.get("REFLEXD_API_KEY") or os.environ.get("OPENAI_API_KEY") or ""
    return Client(url.rstrip("/").removesuffix("/v1"), key)
