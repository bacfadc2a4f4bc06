"""Decides which URLs and which network addresses may be dialled: public ones over https, others where they are listed.

An address is judged in every disguise it can wear: an IPv6 address that carries an IPv4 one is as bad as that one is.
What is allowed is listed (global unicast), not what is forbidden, so that a new kind of special address is refused.
"""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from msgspec import Struct

from reflexd.config import Network
from reflexd.errors import NotAllowedOut

Address = IPv4Address | IPv6Address
AnyNetwork = IPv4Network | IPv6Network

MOST_URL_CHARS = 2048
URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?"
    r"(?P<target>[/?][!$%&'()*+,./0-9:;=?@A-Z_a-z~-]*)?",
    re.ASCII | re.IGNORECASE,
)
"""A URL as it is dialled: no user, no fragment, no backslash, no space, nothing that two parsers read differently."""
NUMERIC = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)", re.ASCII)
"""A host whose last label is a number: an IPv4 address, in whatever spelling (WHATWG URL, "ends in a number")."""
PORTS = {"http": 80, "https": 443}


def _networks(*given: str) -> tuple[AnyNetwork, ...]:
    return tuple(map(ip_network, given))


NEVER = _networks(
    "0.0.0.0/8",  # "this host": connecting to it reaches the machine itself
    "169.254.0.0/16",  # link-local, and the metadata service of most clouds
    "100.100.100.200/32",  # metadata: Alibaba
    "168.63.129.16/32",  # the wire server of Azure
    "192.0.0.192/32",  # metadata: Oracle
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::/128",
    "fe80::/10",
    "fd00:ec2::/32",  # metadata: AWS
    "fd20:ce::/32",  # metadata: Google
    "ff00::/8",
)
"""Nothing that an operator lists opens these: no receiver of webhooks lives there, and a cloud's keys do."""
SPECIAL = _networks(
    "192.0.0.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.175.48.0/24",
    "2001::/23",  # protocol assignments, Teredo among them
    "2001:db8::/32",
    "2002::/16",  # 6to4
    "2620:4f:8000::/48",
    "3fff::/20",
)
"""Within global unicast, and nobody's ordinary server."""
GLOBAL_UNICAST = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")
COMPATIBLE = IPv6Network("::/96")


class Target(Struct, frozen=True):
    """A URL in the parts that are dialled; `host` is in lower case, and without brackets."""

    scheme: str
    host: str
    port: int
    path: str
    address: Address | None
    """Where the host is an address itself."""

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"


class Policy:
    """The operator's word on what may be reached ([network] of the configuration)."""

    def __init__(self, network: Network) -> None:
        self._offline = network.offline
        self._names = {entry.lower() for entry in network.allow if not _is_address(entry)}
        self._networks = [ip_network(entry, strict=False) for entry in network.allow if _is_address(entry)]

    def check_url(self, url: str) -> Target:
        """Return what a URL means; raises NotAllowedOut for one that is not dialled, whatever its name resolves to."""
        found = URL.fullmatch(url) if len(url) <= MOST_URL_CHARS else None
        if found is None:
            raise NotAllowedOut(
                "it must be like https://host/path: without a user, a fragment, spaces or characters beyond ASCII"
            )
        scheme, host = found["scheme"].lower(), found["host"].lower()
        port = int(found["port"] or PORTS[scheme])
        if port > 65_535:
            raise NotAllowedOut(f"there is no port {port}")
        target = found["target"] or "/"
        address = _literal(host)
        out = Target(scheme, host.strip("[]"), port, target if target[0] == "/" else "/" + target, address)
        if address is not None:
            self.check_address(out, address)
        elif not self._lists_name(out.host):
            if self._offline:  # not even a question to a name server leaves
                raise NotAllowedOut(f"this machine is offline, and [network] allow does not list {out.host}")
            if scheme == "http" and not self._networks:
                raise NotAllowedOut("it must begin with https:// (http only to hosts that [network] allow lists)")
        return out

    def check_address(self, target: Target, address: Address) -> None:
        """Raise NotAllowedOut where this address may not be dialled for this target."""
        address = _plain(address)
        disguises = [address, *_carried(address)]
        if any(one in network for one in disguises for network in NEVER if one.version == network.version):
            raise NotAllowedOut(f"{target.host} is an address that is never dialled")
        if self._lists_name(target.host) or any(
            address in network for network in self._networks if network.version == address.version
        ):
            return
        if self._offline:
            raise NotAllowedOut(f"this machine is offline, and [network] allow does not list {target.host}")
        if not all(map(_is_public, disguises)):
            raise NotAllowedOut(f"{target.host} is no public address, and [network] allow does not list it")
        if target.scheme == "http":
            raise NotAllowedOut("it must begin with https:// (http only to hosts that [network] allow lists)")
        if _is_own(address):
            raise NotAllowedOut(f"{target.host} is this machine itself, and [network] allow does not list it")

    def _lists_name(self, host: str) -> bool:
        if host in self._names:
            return True
        parts = host.split(".")
        return any("." + ".".join(parts[at:]) in self._names for at in range(len(parts)))


def _is_address(entry: str) -> bool:
    try:
        ip_network(entry, strict=False)
    except ValueError:
        return False
    return True


def _literal(host: str) -> Address | None:
    """Return the address that a host is; None for a name. Raises NotAllowedOut for an address in an odd spelling."""
    if not host.startswith("[") and not NUMERIC.fullmatch(host):
        return None
    try:
        return IPv6Address(host[1:-1]) if host.startswith("[") else IPv4Address(host)
    except ValueError:
        raise NotAllowedOut(
            "its host is no usual spelling of an address: write it like 192.0.2.1 or [2001:db8::1]"
        ) from None


def _plain(address: Address) -> Address:
    """Return the IPv4 address where an IPv6 one is only another spelling of it: the system dials that one."""
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _carried(address: Address) -> list[Address]:
    """Return the IPv4 addresses that an IPv6 one may lead to by translation or a tunnel."""
    if isinstance(address, IPv4Address):
        return []
    low = IPv4Address(int(address) & 0xFFFFFFFF)
    carried: list[Address] = []
    tunnelled = address in NAT64 or (address in COMPATIBLE and int(address) > 1)  # ::1 is no IPv4 address
    if tunnelled or (int(address) >> 32) & 0xFDFFFFFF == 0x5EFE:  # the last: ISATAP
        carried.append(low)
    if address.sixtofour is not None:
        carried.append(address.sixtofour)
    if address.teredo is not None:
        carried.extend(address.teredo)
    return carried


def _is_public(address: Address) -> bool:
    if any(address in network for network in SPECIAL if network.version == address.version):
        return False
    if isinstance(address, IPv4Address):
        return address.is_global and not address.is_multicast
    return address in GLOBAL_UNICAST or address in NAT64


def _is_own(address: Address) -> bool:
    """Whether an address is this machine's: the system would send from it to itself. Nothing is sent to find out."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), 9))
            return bool(probe.getsockname()[0] == str(address))
    except OSError:  # no way leads there, so it is somebody else's
        return False
