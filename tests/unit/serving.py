"""Decides how tests put an application behind the protocol, on a real socket, and speak to it byte by byte."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from reflexd.api.protocol import Protocol


@asynccontextmanager
async def serving(app: Any, kind: type[Protocol] = Protocol, keep_alive: int = 600) -> AsyncIterator[uvicorn.Server]:
    """Yield a server of the application; `port` tells where it listens."""
    config = uvicorn.Config(
        app, http=kind, lifespan="off", log_config=None, ws="none", timeout_keep_alive=keep_alive, access_log=False
    )
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        # Its connections inherit it: what is not read soon waits in the transport, where the protocol can see it.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
        listening.listen()
        listening.setblocking(False)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        yield server
        server.should_exit = True
        await task


def port(server: uvicorn.Server) -> int:
    number: int = server.servers[0].sockets[0].getsockname()[1]
    return number


async def exchange(server: uvicorn.Server, *parts: bytes) -> bytes:
    """Send the parts on one connection and return all that comes until the server closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port(server))
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), 60)
    except ConnectionError:
        return await reader.read()
    finally:
        writer.close()


def error_of(answer: bytes) -> tuple[bytes, dict[str, str]]:
    """Check the last answer of a connection that the protocol itself closed; return status line and error."""
    head, _, body = answer.rpartition(b"\r\n\r\n")
    head = head[head.rindex(b"HTTP/1.1 ") :]
    assert b"x-request-id: req_" in head
    assert b"connection: close" in head
    error: dict[str, str] = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return head.split(b"\r\n")[0], error


async def answer(send: Any, body: bytes) -> None:
    """Answer 200 with this body."""
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the number of body bytes."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await answer(send, str(size).encode())
