"""Decides how bytes that are no HTTP request are answered: in the one error shape, with a request id, like all else."""

from __future__ import annotations

import secrets

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from reflexd.errors import InvalidRequest


def new_request_id() -> str:
    """Return a fresh value for the x-request-id header."""
    return f"req_{secrets.token_hex(12)}"


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol, whose own refusal would be a line of plain text."""

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refused, and close."""
        error = InvalidRequest(msg)
        body = msgspec.json.encode(error.body())
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {new_request_id()}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()
