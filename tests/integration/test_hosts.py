"""Shows that every route, by every method, answers only to a host of its own, and that no Host opens a route."""

from __future__ import annotations

import random
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import httpx2
import pytest
from litestar import Litestar

from reflexd.api.app import ROUTE_HANDLERS
from tests.daemons import Daemon
from tests.integration.refusals import check_error, nothing_written
from tests.integration.wire import open_socket, read_answer

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
PUBLIC = {"/healthz", "/health", "/readyz"}
with warnings.catch_warnings():  # without the application's dependencies their names pass for query parameters
    warnings.simplefilter("ignore")
    ROUTES = Litestar(route_handlers=ROUTE_HANDLERS, openapi_config=None).routes
METHODS_OF = {re.sub(r"\{\w+\}", "any-1", route.path_format): route.methods for route in ROUTES}
PATHS = [*METHODS_OF, "/", "/nowhere"]

FORGED = [("X-Forwarded-Host", "localhost"), ("X-Forwarded-For", "127.0.0.1"), ("Forwarded", "host=localhost")]
EVIL_FORGED = [("X-Forwarded-Host", "evil.test"), ("X-Forwarded-For", "6.6.6.6"), ("Forwarded", "host=evil.test")]
REFUSED: dict[str, tuple[list[tuple[str, str]], int, str | None]] = {
    "a foreign host": ([("Host", "evil.test")], 421, "host_not_allowed"),
    "a foreign host that forges": ([("Host", "evil.test"), *FORGED], 421, "host_not_allowed"),
    "no host": ([], 400, None),
    "no host but forged ones": (FORGED, 400, None),
    "two hosts": ([("Host", "localhost"), ("Host", "localhost")], 400, None),
    "a path in the host": ([("Host", "x/v1?")], 400, None),
    "a user in the host": ([("Host", "a@b")], 400, None),
    "an empty host": ([("Host", "")], 400, None),
    "a foreign origin": ([("Host", "localhost"), ("Origin", "http://evil.test")], 403, "origin_not_allowed"),
    "no origin that is a site": ([("Host", "localhost"), ("Origin", "null")], 403, "origin_not_allowed"),
}


def ask(
    daemon: Daemon, method: str, path: str, headers: Sequence[tuple[str, str]], version: str = "1.1"
) -> httpx2.Response:
    """Send these headers and no others but Connection; return the answer."""
    lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in headers), "Connection: close"]
    with open_socket(daemon) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n")
        return read_answer(connection)


def test_the_walk_finds_the_routes() -> None:
    closed = {"/v1/reflex/predict", "/v1/models", "/v1/fine_tuning/jobs/any-1/cancel"}
    assert set(METHODS_OF) > PUBLIC | closed


@pytest.mark.parametrize("kind", REFUSED)
def test_each_route_refuses_by_each_method(quiet: Daemon, kind: str) -> None:
    headers, status, code = REFUSED[kind]
    secret = ("Authorization", f"Bearer {quiet.admin_key}")
    with nothing_written(quiet):
        for path in PATHS:
            for method in METHODS:
                answer = ask(quiet, method, path, [*headers, secret])
                assert answer.status_code == status, f"{method} {path}"
                if method != "HEAD":
                    message = check_error(quiet, answer, status, code, None)
                    assert "evil" not in message
                    assert status == 400 or "[http] allowed_hosts" in message


def test_each_route_is_itself_to_its_own_hosts(quiet: Daemon) -> None:
    for path in PATHS:
        for method in METHODS:
            plain = ask(quiet, method, path, [("Host", "localhost")])
            assert plain.status_code not in (400, 403, 421), f"{method} {path}"
            if path in PUBLIC and method in ("GET", "HEAD"):
                assert plain.status_code == 200
            for headers in (
                [("Host", f"127.0.0.1:{quiet.port}")],
                [("Host", "[::1]"), ("Origin", "http://localhost:3000")],
                [("Host", "localhost"), *EVIL_FORGED],
            ):
                assert ask(quiet, method, path, headers).status_code == plain.status_code


def test_every_route_but_the_probes_needs_a_key(quiet: Daemon) -> None:
    for path, methods in METHODS_OF.items():
        for method in methods:
            answer = ask(quiet, method, path, [("Host", "localhost")])
            open_to_all = path in PUBLIC and method in ("GET", "HEAD")
            assert answer.status_code == (200 if open_to_all else 401), f"{method} {path}"


def test_an_old_client_must_name_a_host_too(quiet: Daemon) -> None:
    check_error(quiet, ask(quiet, "GET", "/healthz", [], "1.0"), 400, None, None)
    check_error(quiet, ask(quiet, "GET", "/healthz", [("Host", "evil.test")], "1.0"), 421, "host_not_allowed", None)
    assert ask(quiet, "GET", "/healthz", [("Host", "localhost")], "1.0").status_code == 200


def test_the_configuration_adds_names(start_daemon: Callable[..., Daemon]) -> None:
    daemon = start_daemon(REFLEXD_HTTP__ALLOWED_HOSTS="reflex.example, .corp.example")
    for host, status in (
        ("reflex.example", 200),
        ("reflexXexample", 421),
        ("deep.corp.example:443", 200),
        ("corpXexample", 421),
    ):
        assert ask(daemon, "GET", "/healthz", [("Host", host)]).status_code == status


def made_up_host(random_: random.Random) -> bytes:
    """Return bytes that a parser may stumble over: pieces of what routers and URL parsers look at, and noise."""
    names = [b"localhost", b"127.0.0.1", b"[::1]", b"x", b"null", b"\xc3\xa4", b"\xff"]
    paths = [b"/v1/healthz", b"/healthz", b"?", b"#", b"\\", b"%2f", b"/../", b"//", b";"]
    pieces = names + paths + [b"@", b":80", b":", b".", b",", b" ", b"\t", b"\x00", b"\r", b"[", b"]"]
    if random_.random() < 0.2:
        return random_.randbytes(random_.randrange(1, 40)).replace(b"\n", b"")
    return b"".join(random_.choices(pieces, k=random_.randrange(1, 6)))


def test_no_host_opens_a_route_that_needs_a_key(quiet: Daemon) -> None:
    random_ = random.Random(7)
    closed = [(method, path) for path, methods in METHODS_OF.items() if path.startswith("/v1/") for method in methods]
    seen: Counter[int] = Counter()
    with nothing_written(quiet):
        for _ in range(3_000):
            (method, path), host = random_.choice(closed), made_up_host(random_)
            with open_socket(quiet) as connection:
                head = f"{method} {path} HTTP/1.1\r\nConnection: close\r\nHost: ".encode() + host + b"\r\n\r\n"
                connection.sendall(head)
                status = read_answer(connection).status_code
            assert status in (400, 401, 421), (method, path, host)
            seen[status] += 1
    print(dict(seen))
    assert set(seen) == {400, 401, 421}, "each answer was met, so the bytes went everywhere"
