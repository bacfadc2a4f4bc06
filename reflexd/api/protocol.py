"""Decides how bytes that are no HTTP request are answered: in the one error shape, with a request id, like all else."""

from __future__ import annotations

import secrets
from http import HTTPStatus

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from reflexd.errors import HeadTooLarge, InvalidRequest, ReflexError

MAX_HEAD_BYTES = 65_536


def new_request_id() -> str:
    """Return a fresh value for the x-request-id header."""
    return f"req_{secrets.token_hex(12)}"


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol, with a bound on request line and headers, which its parser would gather for ever."""

    _head_bytes = 0
    _in_head = True
    _ended_one = False

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, unless a request's head has grown too large by it."""
        self._ended_one = False
        super().data_received(data)
        if self._in_head:
            self._head_bytes = 0 if self._ended_one else self._head_bytes + len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(HeadTooLarge())

    def on_headers_complete(self) -> None:
        """Go on to the body, which the application bounds."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Get ready for the connection's next request."""
        self._in_head = self._ended_one = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refused, and close; uvicorn's own answer would be a line of plain text."""
        self._refuse(InvalidRequest(msg))

    def _refuse(self, error: ReflexError) -> None:
        body = msgspec.json.encode(error.body())
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {new_request_id()}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()
