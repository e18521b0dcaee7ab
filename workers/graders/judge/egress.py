"""Where judges may be: public addresses, and private ones that the deployment allows.

The check is made on the address that is connected to, not on a name that could resolve to another one a moment later.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Iterable, Sequence

import anyio
import httpcore

from workers.graders.judge.gate import CURRENT, LeaseLapsed

_WORDS = {
    "loopback": ("127.0.0.0/8", "::1/128"),
    "private": ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"),
}

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(allowed: Iterable[str]) -> list[Network]:
    """The networks behind CIDRs, addresses and the words `loopback` and `private`."""
    return [ipaddress.ip_network(part, strict=False) for word in allowed for part in _WORDS.get(word, (word,))]


def may_connect(address: str, allowed: Sequence[Network]) -> bool:
    """Whether this address is public or allowed."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if any(ip in network for network in allowed):
        return True
    return ip.is_global and not ip.is_multicast


class FencedStream(httpcore.AsyncNetworkStream):
    """A connection that writes nothing for a call whose slot has lapsed.

    A process may be stopped for long between the moment it takes a slot and the moment it writes; by then the slot may be
    somebody else's. Between this look and the write lie microseconds.
    """

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        """As the inner stream."""
        return await self._inner.read(max_bytes, timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Write, if the call that the running task makes may still be made."""
        slot = CURRENT.get()
        if slot is not None and not slot.valid():
            raise LeaseLapsed
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        """As the inner stream."""
        await self._inner.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109
    ) -> httpcore.AsyncNetworkStream:
        """The same over TLS."""
        return FencedStream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> object:
        """As the inner stream."""
        return self._inner.get_extra_info(info)


class VettedBackend(httpcore.AsyncNetworkBackend):
    """Resolves a name itself, and connects only to an address that may be connected to."""

    def __init__(self, allowed: Sequence[Network]) -> None:
        self._allowed = allowed
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 (httpcore's signature)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of `host` that may be connected to."""
        try:
            found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(f"the host '{host}' cannot be found: {error}") from None
        addresses = [str(entry[4][0]) for entry in found]
        open_ones = [address for address in addresses if may_connect(address, self._allowed)]
        if not open_ones:
            raise httpcore.ConnectError(
                f"'{host}' is at {', '.join(addresses)}, a private address; GRAPE_EGRESS__ALLOW must name it"
            )
        stream = await self._inner.connect_tcp(open_ones[0], port, timeout, local_address, socket_options)
        return FencedStream(stream)

    async def sleep(self, seconds: float) -> None:
        """As the inner backend."""
        await self._inner.sleep(seconds)
