"""Shows, over a real socket, that a client which sends or takes too little is let go, and that all others are not.

The deadlines are short. No test asserts that something is quick: what would be for ever must end, that is all.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import uvicorn

from reflexd.api.protocol import protocol
from tests.unit.serving import answer, echo, error_of, port, serving

pytestmark = pytest.mark.anyio

HEAD_SECONDS, WRITE_SECONDS = 1.0, 1.0
SHORT = protocol(HEAD_SECONDS, WRITE_SECONDS)
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """The daemon's own loop, and the standard one."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def server() -> AsyncIterator[uvicorn.Server]:
    async with serving(echo, SHORT) as started:
        yield started


async def drip(server: uvicorn.Server, start: bytes, each: bytes) -> bytes:
    """Send `start`, then `each` ten times a second without end; return what came until the server closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port(server))

    async def drops() -> None:
        writer.write(start)
        while True:
            writer.write(each)
            await asyncio.sleep(0.1)

    dripping = asyncio.create_task(drops())
    found = b""
    try:
        while part := await asyncio.wait_for(reader.read(65_536), 60):
            found += part
    except ConnectionResetError:  # a drop crossed the server's farewell
        pass
    finally:
        dripping.cancel()
        writer.close()
    return found


async def until(look: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not look():
            await asyncio.sleep(0.02)


async def test_a_silent_connection_is_closed_without_a_word(server: uvicorn.Server) -> None:
    assert await drip(server, b"", b"") == b""


@pytest.mark.parametrize("start", [b"GE", b"GET / HTTP/1.1\r\nhost: x\r\ny: "])
@pytest.mark.parametrize("each", [b"", b"x"], ids=["stops", "drips"])
async def test_a_head_that_is_not_whole_in_time_is_answered_408(
    server: uvicorn.Server, start: bytes, each: bytes
) -> None:
    if start == b"GE" and each:
        start = b"GET /"
    status, error = error_of(await drip(server, start, each))
    assert status == b"HTTP/1.1 408 Request Timeout"
    assert (error["code"], error["type"]) == ("request_timeout", "invalid_request_error")
    assert "headers" in error["message"]


async def test_a_later_head_has_the_same_deadline(server: uvicorn.Server) -> None:
    found = await drip(server, GET + b"GET / HTTP/1.1\r\nhost: x\r\ny: ", b"x")
    assert found.startswith(b"HTTP/1.1 200 OK")
    assert error_of(found)[0] == b"HTTP/1.1 408 Request Timeout"


async def test_so_has_one_that_begins_after_an_answer(server: uvicorn.Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
    writer.write(GET)
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n0"), 60)).startswith(b"HTTP/1.1 200 OK")
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\ny: ")
    assert error_of(await asyncio.wait_for(reader.read(), 60))[0] == b"HTTP/1.1 408 Request Timeout"
    writer.close()


async def test_line_ends_between_requests_are_no_sign_of_life(server: uvicorn.Server) -> None:
    found = await drip(server, GET, b"\r\n")
    assert found.count(b"HTTP/1.1") == 1


async def test_a_connection_rests_as_long_as_it_may() -> None:
    async with serving(echo, SHORT, keep_alive=600) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
        for request in (GET, GET, LAST):
            writer.write(request)
            assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n0"), 60)).startswith(b"HTTP/1.1 200 OK")
            await asyncio.sleep(1.5 * HEAD_SECONDS)
        writer.close()
    async with serving(echo, protocol(600, 600), keep_alive=1) as server:
        assert (await drip(server, GET, b"")).count(b"HTTP/1.1 200 OK") == 1


async def test_the_rest_of_a_body_that_nobody_reads_has_a_deadline() -> None:
    async def deaf(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"done")

    async with serving(deaf, SHORT) as server:
        for each in (b"", b"x"):
            found = await drip(server, b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n", each)
            assert found.count(b"HTTP/1.1") == 1
            assert found.endswith(b"done")


async def test_a_client_is_not_blamed_for_a_slow_answer() -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(2 * HEAD_SECONDS)
        await answer(send, b"slow")

    async with serving(slow, SHORT) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
        writer.write(GET + GET + LAST[:20])
        for _ in range(2):
            await asyncio.wait_for(reader.readuntil(b"slow"), 60)
        writer.write(LAST[20:])
        assert (await asyncio.wait_for(reader.read(), 60)).endswith(b"slow")
        writer.close()
        found = await drip(server, GET + LAST[:20], b"")
    assert found.startswith(b"HTTP/1.1 200 OK")
    assert error_of(found)[0] == b"HTTP/1.1 408 Request Timeout"


def with_small_buffer(server: uvicorn.Server) -> socket.socket:
    """Return a connection whose kernel takes little that is not read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port(server)))
    client.setblocking(False)
    return client


async def test_a_client_that_does_not_read_is_dropped_and_the_application_told() -> None:
    gone = asyncio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()
        hangs_up = asyncio.create_task(receive())
        while not hangs_up.done():
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
            await asyncio.sleep(0)
        gone.set()

    async with serving(endless, SHORT) as server:
        with with_small_buffer(server) as client:
            await asyncio.get_running_loop().sock_sendall(client, GET)
            await asyncio.wait_for(gone.wait(), 60)
            await until(lambda: not server.server_state.connections)


async def test_all_connections_are_looked_at_also_after_none_was_there() -> None:
    """One clock looks at all of them; it stops with the last one."""

    async def stuck(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"x" * (1 << 25))

    loop, kind = asyncio.get_running_loop(), protocol(60.0, WRITE_SECONDS)
    async with serving(stuck, kind) as server:
        connections = server.server_state.connections
        for _ in range(2):
            with with_small_buffer(server) as first, with_small_buffer(server) as second:
                _, resting = await asyncio.open_connection("127.0.0.1", port(server))
                await loop.sock_sendall(first, GET)
                await asyncio.sleep(0.2)
                await loop.sock_sendall(second, GET)
                await until(lambda: len(connections) == 3)
                assert kind._writing_clock is not None
                await until(lambda: len(connections) == 1)  # the two that do not read
                resting.close()
                await until(lambda: not connections)
            assert kind._writing_clock is None


async def test_a_closing_connection_does_not_wait_for_its_client_for_ever() -> None:
    class NeverPaused(SHORT):  # type: ignore[misc, valid-type]
        """Leaves bytes to send without the transport's ever telling, as fewer than 64 KB would."""

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            transport.set_write_buffer_limits(high=1 << 30)

    async def big(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"x" * (1 << 25))

    async with serving(big, NeverPaused) as server:
        with with_small_buffer(server) as client:
            await asyncio.get_running_loop().sock_sendall(client, LAST)
            await until(lambda: bool(server.server_state.connections))
            await until(lambda: not server.server_state.connections)


async def test_a_stream_that_is_read_outlives_all_deadlines() -> None:
    async def events(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(10):
            await asyncio.sleep(0.4)
            await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
        await send({"type": "http.response.body"})

    async with serving(events, SHORT, keep_alive=1) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
        writer.write(LAST)
        found = await asyncio.wait_for(reader.read(), 60)
        writer.close()
    assert found.count(b"data: ") == 10
    assert found.endswith(b"\r\n0\r\n\r\n")


async def test_a_client_that_reads_slowly_but_steadily_gets_all() -> None:
    pieces, size = 16, 1 << 18

    async def big(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-length", str(pieces * size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number in range(pieces):
            more = number + 1 < pieces
            await send({"type": "http.response.body", "body": b"x" * size, "more_body": more})

    async with serving(big, SHORT) as server:
        loop = asyncio.get_running_loop()
        with with_small_buffer(server) as client:
            await loop.sock_sendall(client, LAST)
            taken = 0
            while part := await asyncio.wait_for(loop.sock_recv(client, size), 60):
                taken += part.count(b"x")
                await asyncio.sleep(0.003)
    assert taken >= pieces * size
