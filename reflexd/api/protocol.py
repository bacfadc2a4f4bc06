"""Decides how bytes that are no HTTP request are answered, and how long a client may take to send or to take bytes.

uvicorn has no deadline but that of an idle connection, and its parser gathers a head for ever. What is decided here
lies below the application: heads, unread bodies and clients that do not read. A body that is read has its own deadline
in the envelope.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
from http import HTTPStatus
from typing import ClassVar, Self, cast

import msgspec
from litestar.types import Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from reflexd.errors import HeadTooLarge, InvalidRequest, ReflexError, RequestTimeout

MAX_HEAD_BYTES = 65_536


def new_request_id() -> str:
    """Return a fresh value for the x-request-id header."""
    return f"req_{secrets.token_hex(12)}"


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 protocol with deadlines, and with a bound on all that the parser gathers but the body.

    The head clock starts when the connection opens, with the first byte of a later request, and with an answer that has
    overtaken its request's body; a whole head alone stops it. It never runs while an answer is due: reading may then be
    paused, and the client must not be blamed for that.
    """

    head_timeout_seconds = 10.0
    write_timeout_seconds = 60.0

    _open: ClassVar[set[Protocol]] = set()
    _writing_clock: ClassVar[asyncio.TimerHandle | None] = None
    """One for all: a timer for each connection was a tenth of what an idle one takes."""

    at_once: AtOnce | None = None
    """The answer that a thread may be writing."""
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
        """Stop the clocks, and let no thread write any more: the descriptor is about to be closed."""
        if self.at_once is not None:
            self.at_once.cut()
        self._stop_head_clock()
        self._open.discard(self)
        if self._writing_clock is not None and not self._open:
            self._writing_clock.cancel()
            type(self)._writing_clock = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what has arrived, unless head, trailers or a chunk's size line have grown too large by it."""
        if self._in_head:  # were it only line ends: uvicorn stops the idle clock at any byte
            self._start_head_clock()
        self._got_on = False
        super().data_received(data)
        self._gathered_bytes = 0 if self._got_on else self._gathered_bytes + len(data)
        if self._gathered_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(HeadTooLarge())

    def on_message_begin(self) -> None:
        """Begin a request, whose first byte this is."""
        self._head_begun = True
        self._start_head_clock()
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
        vars(self).update(cycle=None, scope=None, headers=None, at_once=None)

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


class AtOnce:
    """A whole answer with status 200 that is written in one piece, and by the thread that has it, not the event loop.

    Between a thread and the event loop lie a wake-up, a turn of the loop and uvicorn's look at each header by regular
    expressions, all with cold caches: .2 ms after each forward. Only the bytes are written early; the loop ends the
    request. Where anything about the connection is special, nothing is written, and the answer goes uvicorn's way.
    """

    def __init__(self, connection: Protocol, cycle: RequestResponseCycle, headers: bytes) -> None:
        """`headers` are lines; content-length is not among them."""
        self._cycle = cycle
        self._head = b"".join(
            [STATUS_LINE[200], *(b"%b: %b\r\n" % header for header in cycle.default_headers), headers]
        )
        self._lock = threading.Lock()
        self._cut = False
        self._left: bytes | None = None
        connection.at_once = self

    @classmethod
    def on(cls, send: Send, headers: bytes) -> Self | None:
        """Return what writes the answer of this request; None where it is not asked over a Protocol."""
        cycle = getattr(send, "__self__", None)
        connection = getattr(getattr(cycle, "on_response", None), "__self__", None)
        if not isinstance(cycle, RequestResponseCycle) or not isinstance(connection, Protocol):
            return None
        return cls(connection, cycle, headers)

    def cut(self) -> None:
        """Write nothing from now on, and return once nothing is being written."""
        with self._lock:
            self._cut = True

    def write(self, body: bytes) -> None:
        """Write the answer, as far as the socket takes it, or nothing; in any thread."""
        cycle, transport = self._cycle, self._cycle.transport
        content = b"%bcontent-length: %d\r\n\r\n%b" % (self._head, len(body), body)
        with self._lock:
            if self._cut or cycle.response_started or not cycle.keep_alive or cycle.flow.write_paused:
                return
            if transport.is_closing() or transport.get_write_buffer_size():
                return
            cycle.response_started = True  # before the write: who cancels the request must send no answer after this
            try:
                self._left = content[os.write(transport.get_extra_info("socket").fileno(), content) :]
            except OSError:  # it is full, or what is wrong with it the transport will find too
                cycle.response_started = False

    def ended(self) -> bool:
        """End the request, in the event loop; return False, and do nothing, where nothing was written."""
        if self._left is None:
            return False
        cycle = self._cycle
        cycle.response_complete = True
        if self._left:
            cycle.transport.write(self._left)
        if not cycle.keep_alive:  # the server has begun to end
            cycle.transport.close()
        cycle.message_event.set()
        cycle.on_response()
        return True


def protocol(head_timeout_seconds: float, write_timeout_seconds: float) -> type[Protocol]:
    """Return the class with these deadlines: uvicorn makes one of it for each connection, and passes no settings."""
    own = {
        "head_timeout_seconds": head_timeout_seconds,
        "write_timeout_seconds": write_timeout_seconds,
        "_open": set(),
        "_writing_clock": None,
    }
    return type("Protocol", (Protocol,), own)
