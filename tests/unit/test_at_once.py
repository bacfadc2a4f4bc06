"""Shows that an answer which a thread writes arrives once, whole and on its own connection, or goes the usual way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from reflexd.api.protocol import AtOnce
from tests.unit.serving import answer, exchange, port, serving

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
PLAIN = b"content-type: text/plain\r\n"
LARGE = b"z" * 8_000_000


class Answering:
    """An application that has a thread write each answer, and counts how many it wrote."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.written = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        at_once = AtOnce.on(send, PLAIN)
        assert at_once is not None
        await asyncio.to_thread(at_once.write, self.body)
        if at_once.ended():
            self.written += 1
        else:
            await answer(send, self.body)


async def test_what_a_thread_writes_is_an_answer_and_the_connection_goes_on() -> None:
    app = Answering(b"hello")
    async with serving(app) as server:
        found = await exchange(server, GET, GET, LAST)
    whole = b"HTTP/1.1 200 OK\r\n%bcontent-type: text/plain\r\ncontent-length: 5\r\n\r\nhello"
    first, second, last = [b"HTTP/1.1 200 OK" + part for part in found.split(b"HTTP/1.1 200 OK")[1:]]
    assert first == second
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert first.endswith(whole.partition(b"%b")[2])
    assert b"\r\nserver: uvicorn\r\n" in first
    assert last.endswith(b"\r\n\r\nhello")
    assert app.written == 2  # the last one's connection is to be closed: that is not a thread's business


async def test_what_the_socket_does_not_take_follows() -> None:
    app = Answering(LARGE)
    async with serving(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
        for _ in range(2):
            writer.write(GET)
            await asyncio.sleep(0.3)  # the socket fills, and the rest waits in the transport
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
            assert b"content-length: 8000000\r\n" in head
            assert await asyncio.wait_for(reader.readexactly(len(LARGE)), 60) == LARGE
        writer.close()
    assert app.written == 2


async def test_nothing_is_written_while_something_waits_to_be_sent() -> None:
    """Its bytes would overtake what waits."""
    app = Answering(LARGE)
    async with serving(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
        writer.write(GET + GET + LAST)
        await asyncio.sleep(1)
        found = await asyncio.wait_for(reader.read(), 60)
        writer.close()
    assert app.written == 1
    assert found.count(b"HTTP/1.1 200 OK") == 3
    assert found.count(b"z") == 3 * len(LARGE)


async def test_nothing_is_written_to_a_connection_that_is_gone() -> None:
    """Its descriptor may be another connection's by then."""
    reached, written, ended = asyncio.Event(), asyncio.Event(), []

    async def late(scope: Any, receive: Any, send: Any) -> None:
        at_once = AtOnce.on(send, PLAIN)
        assert at_once is not None
        reached.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        await asyncio.to_thread(at_once.write, b"for nobody")
        ended.append(at_once.ended())
        written.set()

    async with serving(late) as server:
        _, first = await asyncio.open_connection("127.0.0.1", port(server))
        first.write(GET)
        await reached.wait()
        first.close()
        await asyncio.wait_for(written.wait(), 60)
    assert ended == [False]


async def test_a_request_that_is_cancelled_after_its_answer_gets_no_second_one() -> None:
    async def cancelled(scope: Any, receive: Any, send: Any) -> None:
        at_once = AtOnce.on(send, PLAIN)
        assert at_once is not None
        await asyncio.to_thread(at_once.write, b"hello")
        raise asyncio.CancelledError

    async with serving(cancelled) as server:
        found = await exchange(server, GET)
    assert found.count(b"HTTP/1.1") == 1
    assert found.endswith(b"\r\n\r\nhello")


async def test_another_server_than_ours_is_left_alone() -> None:
    async def send(message: Any) -> None:
        raise AssertionError

    assert AtOnce.on(send, PLAIN) is None
