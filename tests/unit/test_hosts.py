"""Shows which Host and Origin headers name this server: whole names, never patterns, and any address."""

from __future__ import annotations

import contextlib
import socket

import pytest

from reflexd.api.hosts import AllowedHosts
from reflexd.errors import InvalidRequest, MisdirectedRequest, OriginNotAllowed, ReflexError

HOSTS = AllowedHosts("reflex.lan", ["a.b", "Api.Example.com", ".corp.example"])

ALLOWED = [
    "localhost",
    "LocalHost:7335",
    "localhost.",
    "reflex.lan",
    socket.gethostname(),
    "127.0.0.1",
    "127.0.0.1:1",
    "10.1.2.3:65535",
    "[::1]",
    "[::1]:80",
    "[2001:DB8::1]",
    "a.b",
    "A.B.:80",
    "api.example.com",
    "corp.example",
    "x.corp.example",
    "x.y.CORP.example.:7335",
]
FOREIGN = [
    "evil.test",
    "aXb",
    "a.b.evil.test",
    "xa.b",
    "sub.a.b",
    "b",
    "apixexample.com",
    "corpXexample",
    "evilcorp.example",
    "corp.example.evil.test",
    "localhost.evil.test",
    "127.0.0.1.evil.test",
    "2130706433",
    "0x7f.1",
    "127.1",
    "999.1.1.1",
]
INVALID = [
    "",
    " ",
    ".",
    "..",
    ":80",
    "localhost:",
    "localhost:x",
    "localhost:123456",
    "localhost:80:80",
    "x/v1?",
    "localhost/v1",
    "localhost?",
    "localhost#",
    "a@b",
    "evil@localhost",
    "localhost\\",
    "localhost%00",
    ".corp.example",
    "a..b",
    "a.b..",
    "::1",
    "[::1",
    "[::1]x",
    "[fe80::1%25eth0]",
    "[evil.test]",
    "[127.0.0.1]",
    "localhost, evil.test",
    "löcalhost",
    "localhost\n",
    "x" * 300,
]


def check(*headers: tuple[str, str], hosts: AllowedHosts = HOSTS) -> None:
    hosts.check((name.encode(), value.encode("latin-1")) for name, value in headers)


@pytest.mark.parametrize("host", ALLOWED)
def test_an_allowed_host(host: str) -> None:
    check(("host", host))


@pytest.mark.parametrize("host", FOREIGN)
def test_a_foreign_host(host: str) -> None:
    with pytest.raises(MisdirectedRequest) as refused:
        check(("host", host))
    assert host not in refused.value.message.split()
    assert "[http] allowed_hosts" in refused.value.message


@pytest.mark.parametrize("host", INVALID)
def test_no_valid_host(host: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check(("host", host))
    assert refused.value.status == 400


def test_exactly_one_host_and_no_other_header_counts() -> None:
    forged = [("x-forwarded-host", "localhost"), ("x-forwarded-for", "127.0.0.1"), ("forwarded", "host=localhost")]
    for headers in (
        [],
        forged,
        [("host", "localhost"), ("host", "localhost")],
        [("host", "a.b"), ("host", "evil.test")],
    ):
        with pytest.raises(InvalidRequest, match="exactly one Host"):
            check(*headers)
    with pytest.raises(MisdirectedRequest):
        check(("host", "evil.test"), *forged)
    check(("host", "localhost"), ("x-forwarded-host", "evil.test"), ("forwarded", "host=evil.test"))


@pytest.mark.parametrize("name", ALLOWED)
def test_an_origin_that_is_ours(name: str) -> None:
    elsewhere = name in ("10.1.2.3:65535", "[2001:DB8::1]")  # an address of this machine, or of another site
    for origin in (f"http://{name}", f"HTTPS://{name}"):
        check(("host", name), ("origin", origin))
        with pytest.raises(OriginNotAllowed) if elsewhere else contextlib.nullcontext():
            check(("host", "localhost"), ("origin", origin))


@pytest.mark.parametrize(
    "origin", ["null", "", "localhost", "file://", "ftp://localhost", "http://localhost/", "http://"]
)
def test_what_is_no_origin_of_a_site(origin: str) -> None:
    with pytest.raises(OriginNotAllowed):
        check(("host", "localhost"), ("origin", origin))


@pytest.mark.parametrize("name", FOREIGN + INVALID)
def test_an_origin_of_another_site(name: str) -> None:
    with pytest.raises(OriginNotAllowed):
        check(("host", "localhost"), ("origin", f"http://{name}"))
    with pytest.raises(OriginNotAllowed):
        check(("host", "localhost"), ("origin", "http://localhost"), ("origin", f"http://{name}"))


def test_without_entries_only_this_machine_is_named() -> None:
    bare = AllowedHosts("0.0.0.0", [])
    check(("host", "localhost"), hosts=bare)
    for host in ("a.b", "reflex.lan", "corp.example"):
        with pytest.raises(ReflexError):
            check(("host", host), hosts=bare)
