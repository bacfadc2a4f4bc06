"""Decides which host names a request may be made by, so that no other site's page reaches the daemon by its own name.

A browser lets a page talk to the name that it came from. Whoever owns that name can make it point at this machine (DNS
rebinding), but the Host header still carries the name, and so it is refused here. An address cannot be rebound.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable

from reflexd.config import HOST_NAME
from reflexd.errors import InvalidRequest, MisdirectedRequest, OriginNotAllowed

AUTHORITY = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]{1,5})?")
ORIGIN = re.compile(r"https?://(?P<authority>[^/]+)", re.IGNORECASE)


class AllowedHosts:
    """The names that a Host or Origin header may carry.

    A Host may be any IP address. An Origin may be the Host itself, or an address of loopback: a page that comes from
    another address is another site's.
    """

    def __init__(self, listen: str, names: Iterable[str]) -> None:
        """`listen` is the address or name listened on; `names` are [http] allowed_hosts, checked by the configuration.

        A name that begins with a dot stands for that domain and all below it.
        """
        given = [name.lower() for name in names]
        self._names = {"localhost", listen.lower(), socket.gethostname().lower()}
        self._names.update(name.removeprefix(".") for name in given)
        self._domains = tuple(name for name in given if name.startswith("."))

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Look at a request's Host and Origin, and at nothing else (X-Forwarded-Host and Forwarded can be forged).

        Raises InvalidRequest where there is not exactly one valid Host, whatever the version of HTTP;
        MisdirectedRequest where it is not allowed; OriginNotAllowed where an Origin is not.
        """
        headers = list(headers)
        hosts = [value for name, value in headers if name == b"host"]
        if len(hosts) != 1:
            raise InvalidRequest("A request needs exactly one Host header")
        host = _host(hosts[0].decode("latin-1"))
        if host is None:
            raise InvalidRequest("The Host header is not valid")
        if not self._allows(host):
            raise MisdirectedRequest
        for name, value in headers:
            if name == b"origin":
                origin = ORIGIN.fullmatch(value.decode("latin-1"))
                site = _host(origin["authority"]) if origin else None
                if site is None or not (site == host or self._names_us(site)):
                    raise OriginNotAllowed

    def _allows(self, host: str) -> bool:
        return self._names_us(host) or _is_address(host)

    def _names_us(self, host: str) -> bool:
        return host in self._names or host.endswith(self._domains) or _is_loopback(host)


def _host(text: str) -> str | None:
    """Return the host of `host[:port]` in lower case, without brackets and final dot; None where it is no such text."""
    found = AUTHORITY.fullmatch(text)
    if found is None:
        return None
    if found["six"] is not None:
        return found["six"] if ":" in found["six"] and _is_address(found["six"]) else None
    name = found["name"].lower().removesuffix(".")
    return name if HOST_NAME.fullmatch(name) else None


def _is_loopback(host: str) -> bool:
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
