"""Connections to judges: kept open and used again, at a cost per call that does not grow with their number.

httpx's own pool looks at every connection for every request (7.6 ms of processor time per call with 64 connections, measured;
0.7 ms here). Which addresses may be connected to is decided in `egress`.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager

import httpcore
import httpx

from workers.graders.judge.egress import VettedBackend, networks

KEEPALIVE_S = 60.0

_ERRORS: dict[type[BaseException], type[httpx.TransportError]] = {
    getattr(httpcore, name): getattr(httpx, name)
    for name in (
        "TimeoutException", "ConnectTimeout", "ReadTimeout", "WriteTimeout", "NetworkError", "ConnectError", "ReadError",
        "WriteError", "ProtocolError", "LocalProtocolError", "RemoteProtocolError", "UnsupportedProtocol",
    )
}  # fmt: skip


@contextmanager
def _errors_of(request: httpx.Request) -> Iterator[None]:
    """httpcore's errors as httpx's, which is what callers know."""
    try:
        yield
    except tuple(_ERRORS) as error:
        raise _ERRORS.get(type(error), httpx.TransportError)(str(error), request=request) from error


class Connections(httpx.AsyncBaseTransport):
    """HTTP/1.1 connections by origin; the youngest idle one is used again. How many there are is up to who calls."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self.backend = VettedBackend(networks(allowed))
        self._ssl = httpx.create_ssl_context(trust_env=False)
        self._idle: dict[str, deque[httpcore.AsyncHTTPConnection]] = defaultdict(deque)
        self._open: set[httpcore.AsyncHTTPConnection] = set()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One request over a connection of its own for as long as it lasts."""
        url = httpcore.URL(
            scheme=request.url.raw_scheme, host=request.url.raw_host, port=request.url.port, target=request.url.raw_path
        )
        connection = await self._take(url.origin)
        asked = httpcore.Request(
            request.method, url, headers=request.headers.raw, content=request.stream, extensions=request.extensions
        )
        try:
            with _errors_of(request):
                answer = await connection.handle_async_request(asked)
        except BaseException:
            await self._drop(connection)
            raise
        stream = _Body(self, url.origin, connection, answer, request)
        return httpx.Response(answer.status, headers=answer.headers, stream=stream, extensions=answer.extensions)

    async def _take(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection:
        idle = self._idle[str(origin)]
        while idle:
            connection = idle.pop()
            if connection.is_available() and not connection.has_expired():
                return connection
            await self._drop(connection)
        connection = httpcore.AsyncHTTPConnection(
            origin, ssl_context=self._ssl, keepalive_expiry=KEEPALIVE_S, network_backend=self.backend
        )
        self._open.add(connection)
        return connection

    async def give(self, origin: httpcore.Origin, connection: httpcore.AsyncHTTPConnection) -> None:
        """A connection whose answer has been read."""
        if connection.is_available():
            self._idle[str(origin)].append(connection)
        else:
            await self._drop(connection)

    async def _drop(self, connection: httpcore.AsyncHTTPConnection) -> None:
        self._open.discard(connection)
        await connection.aclose()

    async def aclose(self) -> None:
        """Close them all."""
        self._idle.clear()
        for connection in list(self._open):
            await self._drop(connection)


class _Body(httpx.AsyncByteStream):
    """An answer's body; closing it gives the connection back."""

    def __init__(
        self,
        pool: Connections,
        origin: httpcore.Origin,
        connection: httpcore.AsyncHTTPConnection,
        answer: httpcore.Response,
        request: httpx.Request,
    ) -> None:
        self._pool, self._origin, self._connection = pool, origin, connection
        self._answer, self._request = answer, request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _errors_of(self._request):
            async for part in self._answer.aiter_stream():
                yield part

    async def aclose(self) -> None:
        """The body has been read, or nobody wants it."""
        await self._answer.aclose()
        await self._pool.give(self._origin, self._connection)


def judge_client(allowed: Iterable[str]) -> httpx.AsyncClient:
    """An HTTP client with vetted connections, no redirects and no proxies from the environment."""
    return httpx.AsyncClient(transport=Connections(allowed), follow_redirects=False, trust_env=False)
