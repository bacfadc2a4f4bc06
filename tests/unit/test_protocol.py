"""Shows what is answered below the application, over a real socket: garbage, endless heads, several requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from reflexd.api.protocol import MAX_HEAD_BYTES, body_at_once
from tests.unit.serving import answer, echo, error_of, exchange, port, serving

pytestmark = pytest.mark.anyio

LAST = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"


@pytest.fixture
async def server() -> AsyncIterator[uvicorn.Server]:
    async with serving(echo) as started:
        yield started


async def test_garbage_gets_the_error_shape(server: uvicorn.Server) -> None:
    status, _ = error_of(await exchange(server, b"GARBAGE\r\n\r\n"))
    assert status == b"HTTP/1.1 400 Bad Request"


@pytest.mark.parametrize("endless", ["url", "header", "headers", "trailer", "trailers", "chunk extension"])
async def test_what_the_parser_would_gather_for_ever_is_cut_off(server: uvicorn.Server, endless: str) -> None:
    start = {
        "url": b"GET /",
        "header": b"GET / HTTP/1.1\r\nx: ",
        "headers": b"GET / HTTP/1.1\r\n",
        "trailer": CHUNKED + b"0\r\nx: ",
        "trailers": CHUNKED + b"0\r\n",
        "chunk extension": CHUNKED + b"1;",
    }[endless]
    more = b"x: y\r\n" * 200 if endless.endswith("ers") else b"x" * 1200
    # No more than is read before the answer: what is left unread when the server closes would reset the connection.
    reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
    writer.write(start)
    await asyncio.sleep(0.2)  # the server, on this same loop, has read it
    writer.write(more * (MAX_HEAD_BYTES // 1200 + 1))
    status, error = error_of(await asyncio.wait_for(reader.read(), 20))
    writer.close()
    assert status.startswith(b"HTTP/1.1 431")
    assert error["code"] == "request_header_too_large"


async def test_large_bodies_on_one_connection_are_no_head(server: uvicorn.Server) -> None:
    body = b"z" * 300_000
    post = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n" + body
    found = await exchange(server, post, post, post, LAST)
    assert found.count(b"HTTP/1.1 200 OK") == 4
    assert found.count(b"\r\n\r\n300000") == 3


async def test_a_body_in_chunks_of_one_byte_arrives_whole(server: uvicorn.Server) -> None:
    found = await exchange(server, CHUNKED, b"1\r\nx\r\n" * 200_000, b"0\r\n\r\n")
    assert found.endswith(b"\r\n\r\n200000")


async def test_pipelined_requests_are_answered_in_order(server: uvicorn.Server) -> None:
    posts = [b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (n, b"z" * n) for n in range(1, 9)]
    found = await exchange(server, b"".join(posts) + LAST)
    assert [part.split(b"HTTP")[0] for part in found.split(b"\r\n\r\n")[1:]] == [b"%d" % n for n in (*range(1, 9), 0)]


async def test_a_client_that_asks_first_is_told_to_go_on(server: uvicorn.Server) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
    writer.write(b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n")
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"abc" + LAST)
    assert (await asyncio.wait_for(reader.read(), 60)).count(b"HTTP/1.1 200 OK") == 2
    writer.close()


async def test_a_body_that_has_come_with_its_head_is_taken_at_once_and_a_later_one_waited_for() -> None:
    async def taken(scope: Any, receive: Any, send: Any) -> None:
        body = body_at_once(receive)
        if body is None:
            body = b"later " + (await receive())["body"]
        elif scope["path"] == "/again":
            assert body_at_once(receive) == b""
        await answer(send, body)

    async with serving(taken) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
        for path, expect in ((b"/", b""), (b"/again", b""), (b"/", b"expect: 100-continue\r\n")):
            head = b"POST %b HTTP/1.1\r\nhost: x\r\n%bcontent-length: 3\r\n\r\n" % (path, expect)
            writer.write(head + b"abc")
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(3) == b"abc"
            writer.write(head)
            await asyncio.sleep(0.2)  # the server, on this same loop, has read it
            writer.write(b"abc")
            if expect:
                assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(9) == b"later abc"
        writer.close()


async def test_a_body_whose_sender_has_gone_is_not_taken() -> None:
    found: list[bytes | None] = []

    async def late(scope: Any, receive: Any, send: Any) -> None:
        while not receive.__self__.disconnected:
            await asyncio.sleep(0.02)
        found.append(body_at_once(receive))

    async with serving(late) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", port(server))
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc")
        await asyncio.sleep(0.2)
        writer.close()
        async with asyncio.timeout(60):
            while not found:
                await asyncio.sleep(0.02)
    assert found == [None]


async def test_http_1_0_is_answered_and_closed(server: uvicorn.Server) -> None:
    found = await exchange(server, b"GET / HTTP/1.0\r\nhost: x\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 200 OK")
    assert b"connection: close" in found


async def test_a_trailer_is_no_header() -> None:
    async def names(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        await answer(send, b",".join(name for name, _ in scope["headers"]))

    async with serving(names) as server:
        found = await exchange(server, CHUNKED, b"1\r\nx\r\n0\r\nauthorization: mine\r\n\r\n")
    assert found.endswith(b"\r\n\r\nhost,transfer-encoding,connection")
