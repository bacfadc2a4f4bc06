"""Decides how tests speak HTTP byte by byte, where a client library would not send what they mean to send."""

from __future__ import annotations

import socket

import httpx2

from tests.daemons import Daemon


def open_socket(daemon: Daemon) -> socket.socket:
    """Return a connection on which nothing has been sent."""
    return socket.create_connection(("127.0.0.1", daemon.port), timeout=60)


def connect(daemon: Daemon, path: str, *headers: str, key: str | None = None) -> socket.socket:
    """Return a connection on which the head of a POST has been sent."""
    connection = open_socket(daemon)
    bearer = f"Authorization: Bearer {daemon.admin_key if key is None else key}"
    head = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", bearer, *headers]
    connection.sendall("\r\n".join(head).encode() + b"\r\n\r\n")
    return connection


def read_answer(connection: socket.socket) -> httpx2.Response:
    """Read one answer to the end of the connection."""
    content = b""
    try:
        while chunk := connection.recv(65_536):
            content += chunk
    except ConnectionResetError:  # the daemon closed on data that it did not read: the answer came before
        pass
    head, _, rest = content.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
    return httpx2.Response(int(status.split()[1]), headers=headers, content=rest)
