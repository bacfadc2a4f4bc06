"""Decides what every refusal must look like, and how a test knows that a refused request has written nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx2

from tests.daemons import ROOT, Daemon


def check_error(
    daemon: Daemon, response: httpx2.Response, status: int, code: str | None, param: str | None, *secrets: str
) -> str:
    """Check an error: its status, shape, code and param, and that it tells no path or secret; return its message."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    check_request_id(response)
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error = body["error"]
    assert (error["code"], error["param"]) == (code, param), error
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    assert error["type"] == kinds.get(status, "invalid_request_error")
    assert isinstance(error["message"], str)
    assert len(error["message"]) > 8
    for telltale in (
        str(daemon.data_dir),
        str(ROOT),
        "site-packages",
        "Traceback",
        "line ",
        daemon.admin_key,
        *secrets,
    ):
        assert telltale not in response.text
    return error["message"]


def check_request_id(response: httpx2.Response) -> None:
    """Check that the response carries exactly one x-request-id."""
    ids = response.headers.get_list("x-request-id")
    assert len(ids) == 1
    assert ids[0]


@contextmanager
def nothing_written(daemon: Daemon) -> Iterator[None]:
    """Check that the daemon changed neither its database nor the folders of runs, models and batches meanwhile.

    SQLite's data_version differs once any other connection has committed anything, so no table need be compared.
    """
    watcher = sqlite3.connect(f"file:{daemon.data_dir}/reflexd.db?mode=ro", uri=True)
    try:

        def state() -> tuple[object, ...]:
            version = watcher.execute("PRAGMA data_version").fetchone()[0]
            count = watcher.execute("SELECT COUNT(*) FROM jobs").fetchone()[0]
            return version, count, daemon.runs(), daemon.models(), daemon.batches()

        before = state()
        yield
        assert state() == before, "a refused request has left something behind"
    finally:
        watcher.close()


def body(rows: Sequence[object], **more: object) -> bytes:
    """Return a create request; lone surrogates in it become JSON escapes."""
    return json.dumps({"training_data": list(rows), **more}).encode()
