"""Shows that uploads go to the disk as they arrive, within bounds, and that what is not whole leaves nothing."""

from __future__ import annotations

import hashlib
import select
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.daemons import Daemon, running, wait_for
from tests.integration.refusals import check_error, nothing_written
from tests.integration.test_body_size import forget_peak, peak_memory
from tests.integration.wire import connect, read_answer

PATH = "/v1/files"
BOUNDARY = "x-boundary-x"
FORM = f"Content-Type: multipart/form-data; boundary={BOUNDARY}"
MAX_BYTES = 1 << 20
TENANT_BYTES = 3 << 20


@pytest.fixture(scope="module")
def small() -> Iterator[Daemon]:
    """A daemon that takes files of 1 MB, and 3 MB from a tenant, within 3 seconds; other bodies of 64 KB in an hour."""
    limits = {
        "FILES__MAX_BYTES": str(MAX_BYTES),
        "FILES__TENANT_BYTES": str(TENANT_BYTES),
        "FILES__UPLOAD_TIMEOUT_SECONDS": "3",
        "HTTP__MAX_BODY_BYTES": "65536",
        "HTTP__BODIES_BYTES": "65536",
        "HTTP__BODY_TIMEOUT_SECONDS": "3600",
    }
    with running(**{f"REFLEXD_{name}": value for name, value in limits.items()}) as daemon:
        yield daemon


def contents(daemon: Daemon) -> set[str]:
    return {entry.name for entry in (daemon.data_dir / "files").iterdir()}


@contextmanager
def no_file_left(daemon: Daemon) -> Iterator[None]:
    before = contents(daemon)
    with nothing_written(daemon):
        yield
        wait_for(lambda: contents(daemon) == before, "what had arrived is gone")


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    named = f'; filename="{filename}"' if filename is not None else ""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


PURPOSE = part("purpose", b"fine-tune")
FILE = part("file", b"{}", "a.jsonl")


def post(http: httpx2.Client, content: bytes, kind: str | None = None) -> httpx2.Response:
    return http.post(PATH, content=content, headers={"content-type": kind or FORM.partition(": ")[2]})


def upload(http: httpx2.Client, content: bytes, purpose: str = "fine-tune") -> dict[str, Any]:
    answer = http.post(PATH, data={"purpose": purpose}, files={"file": ("a.jsonl", content)})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


# --- the form -------------------------------------------------------------------------------------------------------

TWICE = "A field of the form is sent twice"
REFUSED: dict[str, tuple[bytes, str | None, str]] = {
    "no purpose": (form(FILE), "purpose", "purpose must be given"),
    "no file": (form(PURPOSE), "file", "file must be sent"),
    "an empty file": (form(PURPOSE, part("file", b"", "a.jsonl")), "file", "The file is empty"),
    "two files": (form(PURPOSE, FILE, FILE), "file", TWICE),
    "two purposes": (form(PURPOSE, PURPOSE, FILE), "purpose", TWICE),
    "a wrong purpose, last": (form(FILE, part("purpose", b"x")), "purpose", "fine-tune or batch"),
    "a purpose that is no text": (form(part("purpose", b"\xff"), FILE), "purpose", "UTF-8"),
    "a long field": (form(PURPOSE, part("note", b"x" * 4_097), FILE), "note", "4096"),
    "many fields": (form(PURPOSE, FILE, *(part(f"n{n}", b"") for n in range(15))), None, "multipart"),
    "no end": (PURPOSE + FILE, None, "multipart"),
    "half a head": (PURPOSE + f"--{BOUNDARY}\r\nContent-Disposition: form".encode(), None, "multipart"),
    "no parts": (b"", None, "multipart"),
    "another boundary": (form(PURPOSE, FILE).replace(BOUNDARY.encode(), b"other"), None, "multipart"),
    "a part without a name": (form(PURPOSE, FILE, b"--x-boundary-x\r\nX: y\r\n\r\n\r\n"), None, "multipart"),
    "an endless head": (f"--{BOUNDARY}\r\nX: {'y' * 5_000}".encode(), None, "multipart"),
    "JSON": (b'{"purpose": "fine-tune"}', None, "multipart"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_good_form_is_refused_and_leaves_nothing(small: Daemon, kind: str) -> None:
    content, param, said = REFUSED[kind]
    with small.http() as http, no_file_left(small):
        assert said in check_error(small, post(http, content), 400, None, param)


@pytest.mark.parametrize(
    "kind", ["application/json", "multipart/form-data", "multipart/form-data; boundary=", "text/plain; boundary=x", "é"]
)
def test_another_kind_of_body_is_refused_unread(small: Daemon, kind: str) -> None:
    with small.http() as http, no_file_left(small):
        answer = http.post(PATH, content=form(PURPOSE, FILE), headers={"content-type": kind.encode()})
        assert "multipart/form-data" in check_error(small, answer, 400, None, None)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a.jsonl", "a.jsonl"),
        ("../../etc/passwd", "passwd"),
        ("C:\\\\rows\\\\a b.jsonl", "a b.jsonl"),
        ("分類 é.jsonl", "分類 é.jsonl"),
        ("a\u202eb\tc", "a_b_c"),
        ("x" * 400, "x" * 255),
        ("..", "file"),
        ("", "file"),
        ("dir/", "dir"),
    ],
)
def test_a_name_is_kept_as_given_but_is_never_a_path(small: Daemon, given: str, kept: str) -> None:
    with small.http() as http:
        made = post(http, form(part("file", b"{}", given), PURPOSE)).json()
        assert made["filename"] == kept
        http.delete(f"{PATH}/{made['id']}").raise_for_status()


def test_the_parts_may_come_in_any_order_and_pieces(small: Daemon) -> None:
    content = bytes(range(256)) * 3 + b"\r\n--x-boundary-"
    whole = b"ignored\r\n" + form(part("file", content, "a"), part("note", b"x"), PURPOSE) + b"ignored"
    with connect(small, PATH, FORM, "Transfer-Encoding: chunked", "Connection: close") as connection:
        for byte in whole:
            connection.sendall(b"1\r\n%c\r\n" % byte)
        connection.sendall(b"0\r\n\r\n")
        answer = read_answer(connection)
    assert answer.status_code == 200, answer.text
    with small.http() as http:
        assert http.get(f"{PATH}/{answer.json()['id']}/content").content == content
        http.delete(f"{PATH}/{answer.json()['id']}").raise_for_status()


# --- the bounds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [f"Content-Length: {100 << 20}", "Transfer-Encoding: chunked"])
def test_413_comes_while_the_file_still_arrives(small: Daemon, header: str) -> None:
    piece = b"x" * 65_536
    if "chunked" in header:
        piece = b"%x\r\n%s\r\n" % (len(piece), piece)
    with no_file_left(small), connect(small, PATH, FORM, header) as connection:
        head = part("file", b"", "a")[:-2]
        connection.sendall(b"%x\r\n%s\r\n" % (len(head), head) if "chunked" in header else head)
        sent = 0
        while sent < 50 << 20 and not select.select([connection], [], [], 0)[0]:
            try:
                connection.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
            sent += len(piece)
        answer = read_answer(connection)
        assert "[files] max_bytes" in check_error(small, answer, 413, "file_too_large", None)
    assert sent < 20 << 20, "it did not wait for the end"


def test_the_largest_file_is_taken_and_one_byte_more_is_not(small: Daemon) -> None:
    with small.http(small.create_key("largest")) as http:
        made = upload(http, b"x" * MAX_BYTES)
        assert made["bytes"] == MAX_BYTES
        with no_file_left(small):
            answer = http.post(PATH, data={"purpose": "batch"}, files={"file": ("a", b"x" * (MAX_BYTES + 1))})
            check_error(small, answer, 413, "file_too_large", None)
        http.delete(f"{PATH}/{made['id']}").raise_for_status()


def test_a_tenants_files_have_a_bound_together_and_deleting_makes_room(small: Daemon) -> None:
    with small.http(small.create_key("hoarder")) as http, small.http(small.create_key("other")) as other:
        made = [upload(http, bytes([n]) * MAX_BYTES) for n in range(3)]
        with no_file_left(small):
            answer = http.post(PATH, data={"purpose": "batch"}, files={"file": ("a", b"xy")})
            assert "[files] tenant_bytes" in check_error(small, answer, 400, "file_quota_exceeded", None)
        assert upload(other, b"xy")["bytes"] == 2, "the bound is each tenant's own"
        http.delete(f"{PATH}/{made[0]['id']}").raise_for_status()
        assert upload(http, b"xy")["bytes"] == 2
        for file in http.get(PATH).json()["data"]:
            http.delete(f"{PATH}/{file['id']}").raise_for_status()


def test_what_arrives_at_once_counts_together(small: Daemon) -> None:
    secret = small.create_key("at-once")
    body = part("file", b"x" * (MAX_BYTES - 1), "a")[:-2]
    with closing(connect(small, PATH, FORM, "Content-Length: 1200000", key=secret)) as first:
        first.sendall(body)
        others = [connect(small, PATH, FORM, "Content-Length: 1200000", key=secret) for _ in range(3)]
        for other in others:
            other.sendall(body)
        refused = wait_for(lambda: select.select([first, *others], [], [], 0)[0], "one of four is refused")
        check_error(small, read_answer(refused[0]), 400, "file_quota_exceeded", None)
        for other in others:
            other.close()
    wait_for(lambda: not any(name.startswith(".tmp-") for name in contents(small)), "nothing is left of them")


def test_a_slow_upload_has_its_own_deadline(small: Daemon) -> None:
    with no_file_left(small), connect(small, PATH, FORM, "Content-Length: 1000") as connection:
        connection.sendall(part("file", b"x" * 100, "a")[:-2])
        check_error(small, read_answer(connection), 408, "request_timeout", None)


def test_an_upload_may_take_longer_than_other_bodies(quiet: Daemon) -> None:
    whole = form(PURPOSE, FILE)
    with connect(quiet, PATH, FORM, f"Content-Length: {len(whole)}", "Connection: close") as upload_:
        upload_.sendall(whole[:50])
        with connect(quiet, "/v1/fine_tuning/jobs", "Content-Length: 1000") as other:  # begun later, and late earlier
            other.sendall(b"{")
            check_error(quiet, read_answer(other), 408, "request_timeout", None)
        upload_.sendall(whole[50:])
        answer = read_answer(upload_)
    assert answer.status_code == 200, answer.text
    with quiet.http() as http:
        http.delete(f"{PATH}/{answer.json()['id']}").raise_for_status()


def test_memory_is_flat_while_a_large_file_comes_and_goes(daemon: Daemon, key: str) -> None:
    with daemon.http(key) as http:
        upload(http, b"warm" * 1_000_000)
        forget_peak(daemon)
        before = peak_memory(daemon)
        block = hashlib.sha256(b"seed").digest() * 32_768  # 1 MB

        def body() -> Iterator[bytes]:
            yield PURPOSE + part("file", b"", "large.jsonl")[:-2]
            for number in range(60):
                yield number.to_bytes(8, "big") + block[8:]
            yield b"\r\n" + form()

        answer = http.post(PATH, content=body(), headers={"content-type": FORM.partition(": ")[2]})
        assert answer.status_code == 200, answer.text
        assert answer.json()["bytes"] == 60 << 20
        came = peak_memory(daemon) - before
        got = 0
        with http.stream("GET", f"{PATH}/{answer.json()['id']}/content") as streamed:
            for piece in streamed.iter_raw():
                got += len(piece)
        assert got == 60 << 20
        went = peak_memory(daemon) - before
        for file in http.get(PATH).json()["data"]:
            http.delete(f"{PATH}/{file['id']}").raise_for_status()
    print(f"peak memory of 60 MB: {came / 1e6:+.1f} MB arriving, {went / 1e6:+.1f} MB after sending")
    assert came < 32 << 20
    assert went < 32 << 20


# --- what stays -----------------------------------------------------------------------------------------------------


def test_a_hang_up_leaves_nothing(small: Daemon) -> None:
    with no_file_left(small):
        for _ in range(3):
            with connect(small, PATH, FORM, "Content-Length: 900000") as connection:
                connection.sendall(PURPOSE + part("file", b"x" * 500_000, "a")[:-2])
                wait_for(lambda: any(name.startswith(".tmp-") for name in contents(small)), "it arrives")


def test_one_content_is_kept_once_and_goes_with_its_last_file(small: Daemon) -> None:
    content = b"the same for all\n"
    sha256 = hashlib.sha256(content).hexdigest()
    with small.http(small.create_key("one")) as one, small.http(small.create_key("two")) as two:
        first, second, third = upload(one, content), upload(one, content), upload(two, content, "batch")
        assert len({first["id"], second["id"], third["id"]}) == 3
        stored = small.data_dir / "files" / sha256
        assert stored.read_bytes() == content
        for http, gone in ((one, first), (two, third)):
            http.delete(f"{PATH}/{gone['id']}").raise_for_status()
            assert one.get(f"{PATH}/{second['id']}/content").content == content
        one.delete(f"{PATH}/{second['id']}").raise_for_status()
        assert not stored.exists()


def test_an_expired_file_is_like_none_and_its_content_goes(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    with daemon.http() as http:
        gone, kept = upload(http, b"gone"), upload(http, b"kept")
        with closing(sqlite3.connect(daemon.data_dir / "reflexd.db")) as database, database:
            database.execute("UPDATE files SET expires_at = 1 WHERE id = ?", (gone["id"],))
        unknown = http.get(f"{PATH}/file-unknown")
        for path in ("", "/content"):
            answer = http.get(f"{PATH}/{gone['id']}{path}")
            assert (answer.status_code, answer.content) == (404, unknown.content)
        assert [file["id"] for file in http.get(PATH).json()["data"]] == [kept["id"]]
    assert len(contents(daemon)) == 2
    assert daemon.stop() == 0
    daemon.start()
    assert contents(daemon) == {hashlib.sha256(b"kept").hexdigest()}


def test_a_killed_daemon_sweeps_what_had_arrived(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon()
    with daemon.http() as http:
        kept = upload(http, b"kept")
        with connect(daemon, PATH, FORM, "Content-Length: 9000000") as connection:
            connection.sendall(PURPOSE + part("file", b"x" * 3_000_000, "a")[:-2])
            folder = daemon.data_dir / "files"
            wait_for(lambda: any(entry.stat().st_size > 1 << 20 for entry in arriving(folder)), "it is on the disk")
            daemon.kill()
        assert arriving(folder), "it was there when the daemon was killed"
    daemon.start()
    assert contents(daemon) == {hashlib.sha256(b"kept").hexdigest()}
    with daemon.http() as http:
        assert [file["id"] for file in http.get(PATH).json()["data"]] == [kept["id"]]
        assert http.get(f"{PATH}/{kept['id']}/content").content == b"kept"


def arriving(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.name.startswith(".tmp-")]
