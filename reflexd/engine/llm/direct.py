"""Decides how the daemon itself asks a language model's server one thing, while a caller waits for the answer.

The server is one that the operator has named or the keeper's own on loopback. No proxy of the environment is used and
no redirect followed; the answer has a bound, and a failure is told in words that hold nothing of what was asked.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import httpx2
import msgspec

from reflexd.schemas.worker import LLMAccess

MOST_ANSWER_BYTES = 64 << 20
CONNECT_SECONDS = 10.0
KEPT_CONNECTIONS = 8


class NoAnswer(Exception):
    """The server gave no answer that can be used; `status` is what it said instead, 0 where it said nothing."""

    def __init__(self, why: str, status: int = 0) -> None:
        self.status = status
        super().__init__(why)


class Direct:
    """Asks servers of OpenAI's API."""

    def __init__(self, ca_file: str = "") -> None:
        """`ca_file` holds certificates that are trusted besides the system's."""
        self._ca_file = ca_file
        self._http: httpx2.AsyncClient | None = None

    async def post(self, access: LLMAccess, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return what the server answers with 200 to a request for its model; raises NoAnswer."""
        content = msgspec.json.encode({**body, "model": access.model})
        headers = {"content-type": "application/json", "authorization": f"Bearer {access.key}"}
        if self._http is None:
            self._http = await asyncio.to_thread(self._client)  # reading the certificates takes some 20 ms
        answer = bytearray()
        try:
            async with (
                asyncio.timeout(access.answer_seconds),
                self._http.stream("POST", f"{access.url}/{path}", content=content, headers=headers) as response,
            ):
                async for piece in response.aiter_bytes():
                    answer += piece
                    if len(answer) > MOST_ANSWER_BYTES:
                        raise NoAnswer(f"it answered more than {MOST_ANSWER_BYTES >> 20} MB")
        except TimeoutError as error:
            raise NoAnswer(f"it gave no answer within {access.answer_seconds:g} seconds") from error
        except httpx2.HTTPError as error:
            raise NoAnswer(f"it cannot be asked ({type(error).__name__})") from error
        if response.status_code != 200:
            raise NoAnswer(f"it answered with {response.status_code}", response.status_code)
        try:
            found: dict[str, Any] = msgspec.json.decode(answer, type=dict[str, Any])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise NoAnswer("it answered with no JSON object") from error
        return found

    async def close(self) -> None:
        """End the connections."""
        if self._http is not None:
            await self._http.aclose()

    def _client(self) -> httpx2.AsyncClient:
        tls = ssl.create_default_context()
        if self._ca_file:
            tls.load_verify_locations(cafile=self._ca_file)
        return httpx2.AsyncClient(
            verify=tls,
            trust_env=False,
            timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx2.Limits(max_keepalive_connections=KEPT_CONNECTIONS),
        )
