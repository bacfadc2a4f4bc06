"""Shows what the door out never dials, in every disguise, and that what it dials is what it has checked.

The name server and the far end of a connection are fakes here: a hostile one cannot be had. Real sockets are used
where the other end may be on this machine.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import httpcore2
import pytest

from reflexd.config import Network
from reflexd.egress.door import Door
from reflexd.errors import NotAllowedOut, StartupError, Unreachable
from tests.receivers import answering, receiving
from tests.unit.hostile_urls import HOSTILE, INSIDE, PUBLIC, spellings

pytestmark = pytest.mark.anyio


class Recorder(httpcore2.AsyncNetworkBackend):
    """A network that connects to nothing and keeps where it was told to."""

    def __init__(self) -> None:
        self.dialled: list[tuple[str, int]] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        self.dialled.append((host, port))
        raise httpcore2.ConnectError("a fake network")


def names(**known: Any) -> Any:
    """Return a resolver of these names; a list of lists answers one after the other, as a rebinding server does."""
    turns = {name.replace("_", "."): iter(answers) for name, answers in known.items()}

    def resolve(host: str, _: int) -> list[str]:
        if host not in turns:
            raise OSError(f"no such name {host}")
        return list(next(turns[host]))

    return resolve


async def refused(door: Door, url: str) -> str:
    with pytest.raises(NotAllowedOut) as caught:
        await door.post(url, b"{}", {})
    return str(caught.value)


def test_the_table_is_long_enough() -> None:
    assert len(set(HOSTILE)) == len(HOSTILE) >= 300


@pytest.mark.parametrize("offline", [False, True])
async def test_no_hostile_url_is_dialled(offline: bool) -> None:
    network = Recorder()
    door = Door(Network(offline=offline), backend=network)
    for url in HOSTILE:
        with pytest.raises(NotAllowedOut):
            door.policy.check_url(url)
        await refused(door, url)
    assert network.dialled == []


async def test_what_is_listed_opens_no_metadata_service_and_no_odd_spelling() -> None:
    """The operator lists whole networks and the names; link-local, metadata and multicast stay closed all the same."""
    network = Recorder()
    everything = Network(allow=["0.0.0.0/0", "::/0", "hooks.corp"])
    never = ["169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "0.0.0.0", "224.0.0.1", "fe80::1"]
    never += [
        "fd00:ec2::254",
        "ff02::1",
        "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1",
        "::a9fe:a9fe",
        "::ffff:169.254.1.1",
    ]
    door = Door(everything, names(hooks_corp=[[address] for address in never]), network)
    for address in never:
        host = f"[{address}]" if ":" in address else address
        await refused(door, f"https://{host}/")
        assert "never" in await refused(door, "https://hooks.corp/")
    await refused(door, "https://2130706433/")
    assert network.dialled == []


async def test_names_that_lead_inside_are_not_dialled() -> None:
    inside = [*INSIDE, "::1", "fd00::8", "fe80::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:7f00:1::", "fec0::1"]
    network = Recorder()
    for address in inside:
        door = Door(Network(), names(rebound_example=[[address], [PUBLIC, address], [address, PUBLIC]]), network)
        for _ in range(3):  # alone, and mixed with a public one in either order
            await refused(door, "https://rebound.example/")
    assert network.dialled == []


async def test_a_name_is_resolved_once_and_what_was_checked_is_dialled() -> None:
    network = Recorder()
    door = Door(Network(), names(rebound_example=[[PUBLIC], ["127.0.0.1"]]), network)
    with pytest.raises(Unreachable):  # the answer for whoever asks the name server again would be loopback
        await door.post("https://rebound.example:8443/", b"", {})
    assert network.dialled == [(PUBLIC, 8443)]
    await refused(door, "https://rebound.example:8443/")
    assert network.dialled == [(PUBLIC, 8443)]


async def test_public_addresses_are_dialled() -> None:
    network = Recorder()
    both = [PUBLIC, "2606:2800:220:1::1"]
    door = Door(
        Network(),
        names(hooks_example=[both], v6_example=[[f"64:ff9b::{int(IPv4Address(PUBLIC)):x}"[:-4] + ":d822"]]),
        network,
    )
    for url in (f"https://{PUBLIC}/", "https://[2606:2800:220:1::1]/", "https://hooks.example/", "HTTPS://V6.example/"):
        with pytest.raises(Unreachable, match="connected"):
            await door.post(url, b"", {})
    assert [host for host, _ in network.dialled] == [PUBLIC, both[1], *both, "64:ff9b::5db8:d822"]


async def test_another_end_than_the_one_that_was_dialled_gets_nothing() -> None:
    class Elsewhere(Recorder):
        async def connect_tcp(self, *_: Any, **__: Any) -> httpcore2.AsyncNetworkStream:
            return Stream([b"HTTP/1.1 200 OK\r\n\r\n"])

    class Stream(httpcore2.AsyncMockStream):
        def get_extra_info(self, info: str) -> Any:
            return ("127.0.0.1", 443) if info == "server_addr" else super().get_extra_info(info)

    door = Door(Network(), backend=Elsewhere())
    assert "another address" in await refused(door, f"https://{PUBLIC}/")


async def test_this_machine_by_its_own_address_is_not_dialled() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((PUBLIC, 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        own = probe.getsockname()[0]
    network = Recorder()
    await refused(Door(Network(), backend=network), f"https://{own}/")
    assert network.dialled == []


@pytest.mark.parametrize(
    ("allow", "url", "opens"),
    [
        (["127.0.0.1"], "http://127.0.0.1:{port}/", True),
        (["127.0.0.0/8"], "http://127.0.0.1:{port}/", True),
        (["127.0.0.0/8"], "http://hooks.corp.example:{port}/", "online"),
        (["hooks.corp.example"], "http://hooks.corp.example:{port}/", True),
        (["HOOKS.corp.example"], "http://hooks.CORP.example:{port}/", True),
        ([".corp.example"], "http://hooks.corp.example:{port}/", True),
        ([".corp.example"], "http://corp.example:{port}/", True),
        ([".corp.example"], "http://nocorp.example:{port}/", False),
        (["corp.example"], "http://hooks.corp.example:{port}/", False),
        (["10.0.0.0/8"], "http://127.0.0.1:{port}/", False),
        (["10.0.0.0/8"], "http://hooks.corp.example:{port}/", False),
        ([], "http://hooks.corp.example:{port}/", False),
    ],
)
@pytest.mark.parametrize("offline", [False, True])
async def test_what_the_operator_lists_is_reached(allow: list[str], url: str, opens: bool | str, offline: bool) -> None:
    local = ["127.0.0.1"]
    known = names(hooks_corp_example=[local], corp_example=[local], nocorp_example=[local])
    with receiving() as receiver:
        door = Door(Network(offline=offline, allow=allow), known)
        where = url.format(port=receiver.port)
        if opens is True or (opens == "online" and not offline):
            assert (await door.post(where, b"{}", {"x-own": "1"})).status == 200
            (one,) = receiver.received
            assert (one.path, one.body, one.headers["x-own"]) == ("/", b"{}", "1")
            assert one.headers["host"] == where.lower().removeprefix("http://").rstrip("/")
        else:
            await refused(door, where)
            assert receiver.received == []


@pytest.mark.parametrize("allow", [["::1", "127.0.0.1"], ["localhost"]])
async def test_the_machine_itself_is_reached_in_both_families_where_it_is_listed(allow: list[str]) -> None:
    """::1 is no IPv4 address in disguise, and one refused address would refuse all of localhost."""
    network = Recorder()
    door = Door(Network(allow=allow), names(localhost=[["::1", "127.0.0.1"]]), network)
    with pytest.raises(Unreachable):
        await door.post("http://localhost/", b"", {})
    assert network.dialled == [("::1", 80), ("127.0.0.1", 80)]


async def test_names_that_hang_hold_up_neither_others_nor_the_end() -> None:
    """As many as a dead name server can be asked for at once, and then one that answers."""
    released = threading.Event()

    def resolve(host: str, _: int) -> list[str]:
        if host != "live.example":
            released.wait(60)
        return [PUBLIC]

    network = Recorder()
    door = Door(Network(), resolve, network)
    hung = [asyncio.create_task(door.post(f"https://dead-{n}.example/", b"", {})) for n in range(200)]
    await asyncio.sleep(0.1)
    with pytest.raises(Unreachable, match="connected"):
        await door.post("https://live.example/", b"", {})
    assert network.dialled == [(PUBLIC, 443)]
    for task in hung:
        task.cancel()
    await asyncio.gather(*hung, return_exceptions=True)
    released.set()


async def test_offline_lets_nothing_out_that_is_not_listed() -> None:
    network = Recorder()
    asked: list[str] = []

    def resolve(host: str, _: int) -> list[str]:
        asked.append(host)
        return [PUBLIC]

    door = Door(Network(offline=True, allow=["hooks.corp"]), resolve, network)
    for url in (f"https://{PUBLIC}/", "https://hooks.example/"):
        assert "offline" in await refused(door, url)
    assert (asked, network.dialled) == ([], [])


async def test_a_redirect_is_an_answer_like_any_other() -> None:
    with receiving() as receiver, receiving() as inside:
        receiver.answer = answering(307, location=inside.url)
        reply = await Door(Network(allow=["127.0.0.1"])).post(receiver.url, b"{}", {})
        assert reply.status == 307
        assert (len(receiver.received), inside.received) == (1, [])


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as receiver, receiving() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert (await Door(Network(allow=["127.0.0.1"])).post(receiver.url, b"{}", {})).status == 200
        assert proxy.received == []


async def test_a_server_that_speaks_no_tls_and_a_name_that_is_none() -> None:
    with receiving() as receiver:
        door = Door(Network(allow=["127.0.0.1"]))
        with pytest.raises(Unreachable, match="TLS"):
            await door.post(receiver.url.replace("http:", "https:"), b"{}", {})
    with pytest.raises(Unreachable, match="resolved"):
        await Door(Network(), names()).post("https://nobody.example/", b"{}", {})


async def test_an_endless_answer_is_not_read_to_its_end() -> None:
    """The status counts as soon as it is there; 10 GB behind it are cut off at 64 KB, and so is a drip."""
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nretry-after: 7\r\ncontent-length: 10737418240\r\n\r\n")
        try:
            while True:
                writer.write(b"x" * 65_536)
                await writer.drain()
                sent += 65_536
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reply = await Door(Network(allow=["127.0.0.1"])).post(f"http://127.0.0.1:{port}/", b"", {})
    assert (reply.status, reply.retry_after) == (200, "7")
    assert sent < 64 * 2**20  # what the system's buffers hold, and not the whole


@pytest.mark.parametrize(
    "entry", ["https://hooks.example", "hooks.example:443", "10.0.0.0/33", "1.2.3", "*.example", ""]
)
def test_a_wrong_entry_of_the_list_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="allow"):
        Network(allow=[entry])


def test_a_certificate_file_that_is_none(tmp_path: Any) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(StartupError, match="ca_file"):
            Door(Network(ca_file=str(tmp_path / name)))


def test_the_fakes_spell_what_they_say() -> None:
    """Else a typing error in the table would pass for a refusal."""
    v6 = [IPv6Address(host.strip("[]")) for host in spellings("127.0.0.1") if host.startswith("[")]
    assert len(v6) == 11
    assert v6[6].sixtofour == IPv4Address("127.0.0.1")
    assert v6[7].teredo is not None
    assert v6[7].teredo[1] == IPv4Address("127.0.0.1")
