"""Decides how bytes that are no HTTP request are answered, and how long a client may take to send or to take bytes.

uvicorn has no deadline but that of an idle connection, and its parser gathers a head for ever. What is decided here
lies below the application: heads, unread bodies and clients that do not read. A body that is read has its own deadline
in the envelope.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
from http import HTTPStatus
from typing import ClassVar, cast

import msgspec
from litestar.types import Receive, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from reflexd.errors import HeadTooLarge, InvalidRequest, ReflexError, RequestTimeout

MAX_HEAD_BYTES = 65_536


def new_request_id() -> str:
    """Return a fresh value for the x-request-id header."""
    return f"req_{secrets.token_hex(12)}"


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with deadlines, and with a bound on all that the parser gathers but the body.

    The head clock starts when the connection opens, with the first byte of a later request, unless its head arrives in
    one piece, and with an answer that has overtaken its request's body; a whole head alone stops it. It never runs
    while an answer is due: reading may then be paused, and the client must not be blamed for that.
    """

    head_timeout_seconds = 10.0
    write_timeout_seconds = 60.0

    _open: ClassVar[set[Protocol]] = set()
    _writing_clock: ClassVar[asyncio.TimerHandle | None] = None
    """One for all: a timer for each connection was a tenth of what an idle one takes."""

    _head_clock: asyncio.TimerHandle | None = None
    _in_head = True
    _head_begun = False
    _gathered_bytes = 0
    _got_on = False
    _left_to_send = 0
    _looks_at_stuck = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clocks."""
        # uvicorn asks for more than the event loop promises. uvloop's transport is no asyncio.Transport by its class
        # (so this cannot be asserted), and one by its methods.
        super().connection_made(cast(asyncio.Transport, transport))
        self._start_head_clock()
        self._open.add(self)
        if self._writing_clock is None:
            self._start_writing_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._stop_head_clock()
        self._open.discard(self)
        if self._writing_clock is not None and not self._open:
            self._writing_clock.cancel()
            type(self)._writing_clock = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, unless head, trailers or a chunk's size line have grown too large by it."""
        self._got_on = False
        super().data_received(data)
        if self._in_head:  # were it only line ends: uvicorn stops the idle clock at any byte
            self._start_head_clock()
        self._gathered_bytes = 0 if self._got_on else self._gathered_bytes + len(data)
        if self._gathered_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(HeadTooLarge())

    def on_message_begin(self) -> None:
        """Begin a request, whose first byte this is."""
        self._head_begun = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; a trailer, which comes after the body, must not pass for one."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Go on to the body, which the application bounds."""
        self._in_head = self._head_begun = False
        self._got_on = True
        self._stop_head_clock()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        self._got_on = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Get ready for the connection's next request."""
        self._in_head = self._got_on = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, which may have begun, or for the rest of a body that nobody will read."""
        super().on_response_complete()
        if self._head_begun or not self._in_head:
            self._start_head_clock()
        elif self.cycle is not None and self.cycle.response_complete:
            self._forget_request()

    def _forget_request(self) -> None:
        """Let go of a request that has been read and answered whole: uvicorn would keep it until the next one.

        It is a third of what an idle connection takes (10.9 kB with it, 7.4 without). uvicorn begins with None.
        """
        vars(self).update(cycle=None, scope=None, headers=None)

    def resume_writing(self) -> None:
        """Go on: the client has taken what waited."""
        self._left_to_send = 0
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser refused, and close; uvicorn's own answer would be a line of plain text."""
        self._refuse(InvalidRequest(msg))

    def _start_head_clock(self) -> None:
        answering = self.cycle is not None and not self.cycle.response_complete
        if self._head_clock is None and not answering and not self.transport.is_closing():
            self._head_clock = self.loop.call_later(self.head_timeout_seconds, self._head_is_late)

    def _stop_head_clock(self) -> None:
        if self._head_clock is not None:
            self._head_clock.cancel()
            self._head_clock = None

    def _head_is_late(self) -> None:
        if self.transport.is_closing():
            return
        if self._head_begun:
            self._refuse(RequestTimeout("The request's headers did not arrive in time"))
        else:
            self.transport.close()

    def _look_at_writing(self) -> None:
        """Drop a connection from which nothing of what waits to be sent has been taken between three looks.

        Also one that is being closed: it would wait for its client for ever.
        """
        left = self.transport.get_write_buffer_size()
        self._looks_at_stuck = self._looks_at_stuck + 1 if 0 < left == self._left_to_send else 0
        self._left_to_send = left
        if self._looks_at_stuck == 2:
            self.transport.abort()

    def _start_writing_clock(self) -> None:
        type(self)._writing_clock = self.loop.call_later(self.write_timeout_seconds / 2, self._look_at_all)

    def _look_at_all(self) -> None:
        for connection in tuple(self._open):
            connection._look_at_writing()
        self._start_writing_clock()

    def _refuse(self, error: ReflexError) -> None:
        body = msgspec.json.encode(error.body())
        head = (
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nx-request-id: {new_request_id()}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + body)
        self.transport.close()


def body_at_once(receive: Receive) -> bytes | None:
    """Return a request's whole body where it has come already, as a small one mostly has; None where it has not.

    Waiting for it takes a deadline, with the caches cold: see send_at_once.
    """
    cycle = getattr(receive, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle) or cycle.more_body or cycle.disconnected or cycle.response_complete:
        return None
    body, cycle.body = bytes(cycle.body), bytearray()
    cycle.message_event.clear()
    cycle.waiting_for_100_continue = False  # it need not be told to go on
    return body


def send_at_once(send: Send, status: int, headers: bytes, body: bytes) -> bool:
    """Send a whole answer in one write, where nothing about its connection is special; return False where it is.

    `headers` are lines, of which uvicorn's own way would look at each by regular expressions. After a forward, with the
    caches cold, that way takes .1 ms longer.
    """
    cycle = getattr(send, "__self__", None)
    if not isinstance(cycle, RequestResponseCycle):
        return False
    if cycle.response_started or cycle.disconnected or not cycle.keep_alive or cycle.flow.write_paused:
        return False
    if cycle.transport.is_closing():
        return False
    lines = b"".join([b"%b: %b\r\n" % header for header in cycle.default_headers])
    length = b"content-length: %d\r\n\r\n" % len(body)
    cycle.response_started = cycle.response_complete = True
    _write_now(cycle.transport, b"".join((STATUS_LINE[status], lines, headers, length, body)))
    cycle.message_event.set()
    cycle.on_response()
    return True


def _write_now(transport: asyncio.Transport, content: bytes) -> None:
    """Write before this turn of the event loop ends, as far as the socket takes it, where nothing waits before it."""
    if transport.get_write_buffer_size() == 0:
        with contextlib.suppress(OSError):  # what is wrong with the connection the transport will find too
            content = content[os.write(transport.get_extra_info("socket").fileno(), content) :]
    if content:
        transport.write(content)


def protocol(head_timeout_seconds: float, write_timeout_seconds: float) -> type[Protocol]:
    """Return the class with these deadlines: uvicorn makes one of it for each connection, and passes no settings."""
    own = {
        "head_timeout_seconds": head_timeout_seconds,
        "write_timeout_seconds": write_timeout_seconds,
        "_open": set(),
        "_writing_clock": None,
    }
    return type("Protocol", (Protocol,), own)
