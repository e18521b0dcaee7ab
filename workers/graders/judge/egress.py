"""Where judges may be: public addresses, and private ones that the deployment allows.

The check is made on the address that is connected to, not on a name that could resolve to another one a moment later.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence

import anyio
import httpcore
import httpx

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
        return await self._inner.connect_tcp(open_ones[0], port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        """As the inner backend."""
        await self._inner.sleep(seconds)


def judge_client(allowed: Iterable[str], connections: int) -> httpx.AsyncClient:
    """An HTTP client with vetted connections, no redirects and no proxies from the environment."""
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=60)
    transport = httpx.AsyncHTTPTransport(limits=limits, trust_env=False)
    # httpx has no option for the backend of its pool; a test sees that this one is used.
    transport._pool._network_backend = VettedBackend(networks(allowed))
    return httpx.AsyncClient(transport=transport, follow_redirects=False, trust_env=False)
