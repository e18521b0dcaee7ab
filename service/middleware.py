"""Pure ASGI middleware: a request id on everything, and a limit on bodies that are read whole."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request

from service.domain.ids import new_id
from service.errors import GrapeError, TooLarge
from service.problems import problem

log = logging.getLogger("grape.access")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

STREAMED = ("/rows", "/import")
"""Paths that read their body piece by piece and set limits of their own."""


class RequestIds:
    """Gives each request an id, sends it back as `x-request-id`, and logs one line per request.

    An unexpected error is answered here: Starlette's own place for that is outside, has no request id any more, and breaks
    the connection, on which a client may have its next request under way. `note` hears of every answer: scope, status, seconds.
    """

    def __init__(self, app: App, note: Callable[[Scope, int, float], None]) -> None:
        self.app = app
        self.note = note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI call."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["request_id"] = new_id("request")
        started = time.perf_counter()
        answered = False

        async def tagged(message: MutableMapping[str, Any]) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                MutableHeaders(scope=message)["x-request-id"] = scope["request_id"]
                seconds = time.perf_counter() - started
                self.note(scope, message["status"], seconds)
                log.info("%s %s %s %.1f ms", scope["method"], scope["path"], message["status"], seconds * 1000)
            await send(message)

        try:
            await self.app(scope, receive, tagged)
        except Exception:
            if answered:  # half an answer is out: only breaking the connection says that it is not whole
                raise
            log.exception("unexpected error in %s %s", scope["method"], scope["path"])
            error = GrapeError("something went wrong here; the log has it under this request_id")
            await problem(Request(scope), error)(scope, receive, tagged)


class BodyLimit:
    """Refuses a body over the limit with 413, before it is parsed and however it is sent."""

    def __init__(self, app: App, limit_mb: float) -> None:
        self.app = app
        self.limit = int(limit_mb * (1 << 20))
        self.message = (
            f"the body is larger than {limit_mb:g} MB, the limit here; rows are sent as NDJSON, which has no such limit"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI call."""
        if scope["type"] != "http" or scope["path"].endswith(STREAMED):
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdigit() and int(length) > self.limit:
            await problem(Request(scope), TooLarge(self.message))(scope, receive, send)
            return
        seen = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.limit:
                raise TooLarge(self.message)
            return message

        await self.app(scope, counted, send)
