"""Decides how a request leaves this machine: its name is resolved once, every address checked, the checked one dialled.

No redirect is followed, no proxy of the environment used, no connection kept, and an answer is read up to 64 KB.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from ipaddress import ip_address

import httpcore2

from reflexd.config import Network
from reflexd.egress.policy import Address, Policy, Target
from reflexd.errors import NotAllowedOut, StartupError, Unreachable
from reflexd.hookspecs import Reply

MOST_ANSWER_BYTES = 65_536
ANSWER_SECONDS = 0.2
"""How long the rest of an answer is read whose status is known; only politeness wants it, and a drip may not use up
the time in which the status was had."""
RESOLVED_AT_ONCE = 256
"""Names; a dead name server holds each for half a minute, in a thread that no end of the daemon waits for."""
CONNECT_SECONDS = 4.0
"""For each address of a name: a dead one leaves time for the next."""

Resolve = Callable[[str, int], list[str]]


def system_addresses(host: str, port: int) -> list[str]:
    """Return the addresses of a name, as the system resolves it; raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))


class Door:
    """The daemon's way out."""

    def __init__(
        self,
        network: Network,
        resolve: Resolve = system_addresses,
        backend: httpcore2.AsyncNetworkBackend | None = None,
    ) -> None:
        """Raise StartupError where [network] ca_file cannot be used. Tests give another `resolve` and `backend`."""
        self.policy = Policy(network)
        self._tls = ssl.create_default_context()
        if network.ca_file:
            try:
                self._tls.load_verify_locations(cafile=network.ca_file)
            except OSError as error:  # an ssl.SSLError is one too
                raise StartupError(f"[network] ca_file: {network.ca_file} cannot be used: {error}") from error
        self._resolve = resolve
        self._dialler = backend or httpcore2.AnyIOBackend()
        self._looked_up: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Send a POST and return its answer; the caller bounds the time.

        Raises NotAllowedOut for what may not be reached, and Unreachable where nothing answers as HTTP.
        """
        target = self.policy.check_url(url)
        sent = {"host": target.authority, "content-length": str(len(body)), **headers}
        address = httpcore2.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        network = _Checked(self, target)
        try:
            async with (
                httpcore2.AsyncConnectionPool(
                    ssl_context=self._tls, max_keepalive_connections=0, network_backend=network
                ) as pool,
                pool.stream("POST", address, headers=list(sent.items()), content=body) as response,
            ):
                with contextlib.suppress(TimeoutError, httpcore2.NetworkError, httpcore2.ProtocolError):
                    async with asyncio.timeout(ANSWER_SECONDS):
                        await _read_some(response)
                named = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}
                return Reply(status=response.status, retry_after=named.get("retry-after", ""))
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException, ssl.SSLError) as error:
            raise Unreachable(_why(error, network.connected)) from error

    async def addresses(self, target: Target) -> list[Address]:
        """Return the addresses of a target, each checked; raises NotAllowedOut, and Unreachable for no address."""
        if target.address is not None:
            return [target.address]
        try:
            found = await self._look_up(target.host, target.port)
            addresses = [ip_address(one.partition("%")[0]) for one in found]
        except (OSError, UnicodeError, ValueError) as error:
            raise Unreachable(f"the name {target.host} cannot be resolved") from error
        if not addresses:
            raise Unreachable(f"the name {target.host} has no address")
        for address in addresses:  # one that may not be dialled refuses the name: a mixture is how rebinding begins
            self.policy.check_address(target, address)
        return addresses

    async def dial(
        self, target: Target, address: Address, seconds: float | None, options: Iterable[httpcore2.SOCKET_OPTION] | None
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to a checked address, and make sure that it is the one that was reached."""
        stream = await self._dialler.connect_tcp(
            str(address), target.port, timeout=seconds, local_address=None, socket_options=options
        )
        peer = stream.get_extra_info("server_addr")
        if peer is None or ip_address(str(peer[0]).partition("%")[0]) != address:
            await stream.aclose()
            raise NotAllowedOut("another address answered than the one that was dialled")
        return stream

    async def _look_up(self, host: str, port: int) -> list[str]:
        """Resolve a name in a thread; whoever asks for the same one meanwhile waits for that."""
        place = host, port
        if place not in self._looked_up:
            if len(self._looked_up) >= RESOLVED_AT_ONCE:
                raise Unreachable("too many names are being looked up")
            loop = asyncio.get_running_loop()
            future: asyncio.Future[list[str]] = loop.create_future()
            self._looked_up[place] = future
            threading.Thread(target=self._resolve_for, args=(place, loop, future), daemon=True).start()
        return await asyncio.shield(self._looked_up[place])

    def _resolve_for(
        self, place: tuple[str, int], loop: asyncio.AbstractEventLoop, future: asyncio.Future[list[str]]
    ) -> None:
        try:
            settle = partial(future.set_result, self._resolve(*place))
        except Exception as error:
            settle = partial(future.set_exception, error)

        def tell() -> None:
            del self._looked_up[place]
            settle()
            future.exception()  # it is no fault of the program where nobody waits any more

        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell)


class _Checked(httpcore2.AsyncNetworkBackend):
    """The network as one request sees it: whatever it asks for, its own checked target is dialled."""

    def __init__(self, door: Door, target: Target) -> None:
        self._door = door
        self._target = target
        self.connected = False

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002 - the target's
        port: int,  # noqa: ARG002
        timeout: float | None = None,  # noqa: ARG002, ASYNC109 - the caller bounds the whole
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        failure: Exception | None = None
        for address in await self._door.addresses(self._target):
            try:
                stream = await self._door.dial(self._target, address, CONNECT_SECONDS, socket_options)
                self.connected = True
                return stream
            except (httpcore2.NetworkError, httpcore2.TimeoutException) as error:
                failure = error
        assert failure is not None
        raise failure


async def _read_some(response: httpcore2.Response) -> None:
    read = 0
    async for chunk in response.aiter_stream():
        read += len(chunk)
        if read >= MOST_ANSWER_BYTES:
            return


def _why(error: Exception, connected: bool) -> str:
    """Return what went wrong, in words that tell nothing of the network inside."""
    if isinstance(error, httpcore2.ConnectError | httpcore2.ConnectTimeout | ssl.SSLError):
        return "its TLS certificate is not trusted, or it speaks no TLS" if connected else "it cannot be connected to"
    if isinstance(error, httpcore2.ProtocolError):
        return "it does not answer as HTTP"
    return "it broke the connection off"
