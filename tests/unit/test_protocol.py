"""Shows what is answered below the application, over a real socket: garbage, endless heads, several requests."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from reflexd.api.protocol import MAX_HEAD_BYTES, Protocol

pytestmark = pytest.mark.anyio


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the number of body bytes."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = str(size).encode()
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]}
    )
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
async def port() -> AsyncIterator[int]:
    server = uvicorn.Server(uvicorn.Config(echo, http=Protocol, lifespan="off", log_config=None, ws="none"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.setblocking(False)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        yield listening.getsockname()[1]
        server.should_exit = True
        await task


async def exchange(port: int, *parts: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), 20)
    except ConnectionError:
        return await reader.read()
    finally:
        writer.close()


def error_of(answer: bytes) -> tuple[bytes, dict[str, str]]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"x-request-id: req_" in head
    assert b"connection: close" in head
    error: dict[str, str] = json.loads(body)["error"]
    return head.split(b"\r\n")[0], error


async def test_garbage_gets_the_error_shape(port: int) -> None:
    status, error = error_of(await exchange(port, b"GARBAGE\r\n\r\n"))
    assert status == b"HTTP/1.1 400 Bad Request"
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("endless", ["url", "header", "headers"])
async def test_an_endless_head_is_cut_off(port: int, endless: str) -> None:
    start = {"url": b"GET /", "header": b"GET / HTTP/1.1\r\nx: ", "headers": b"GET / HTTP/1.1\r\n"}[endless]
    more = b"x: y\r\n" * 200 if endless == "headers" else b"x" * 1200
    # No more than is read before the answer: what is left unread when the server closes would reset the connection.
    status, error = error_of(await exchange(port, start, more * (MAX_HEAD_BYTES // 1200 + 1)))
    assert status.startswith(b"HTTP/1.1 431")
    assert error["code"] == "request_header_too_large"


async def test_large_bodies_on_one_connection_are_no_head(port: int) -> None:
    body = b"z" * 300_000
    post = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 300000\r\n\r\n" + body
    last = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answer = await exchange(port, post, post, post, last)
    assert answer.count(b"HTTP/1.1 200 OK") == 4
    assert answer.count(b"\r\n\r\n300000") == 3
