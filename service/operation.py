"""`Operation`: the route class of every `/v1` endpoint, where the rules that all of them share are kept.

In this order: one database session per request, the key (401), its scope (403), unknown query parameters (422), the stored
answer of an idempotency key, then the endpoint (whose path objects give 404 before its body gives 422). A success is
committed before its response is sent; any error rolls everything back.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.tables import ApiKey, IdempotencyKey
from service.domain.base import nearest
from service.errors import BadRequest, Conflict, Forbidden, Invalid, Unauthenticated
from service.services import Services

SCOPES = (
    "admin", "rubrics:read", "rubrics:write", "data:read", "data:write", "judges:read", "judges:write", "models:read",
    "models:write", "jobs:read", "jobs:write", "grade",
)  # fmt: skip

_NUL_ESCAPE = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a key of a project, with scopes."""

    project_id: str
    key_id: str
    key_prefix: str
    scopes: frozenset[str]

    def has(self, scope: str) -> bool:
        """Whether the key's scopes reach this one; `admin` reaches all."""
        return scope in self.scopes or "admin" in self.scopes


class Operation(APIRoute):
    """See the module's first lines."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the endpoint."""
        inner = super().get_route_handler()
        extra = self.openapi_extra or {}
        scope: str = extra.get("x-scope", "")
        streamed: bool = extra.get("x-streamed-body", False)
        known = set(_query_names(self.dependant))
        creates = "POST" in (self.methods or ())

        async def handle(request: Request) -> Response:
            services: Services = request.app.state.services
            async with services.database.session() as session:
                request.state.session = session
                caller = await authenticate(session, request, services)
                request.state.caller = caller
                if not caller.has(scope):
                    raise Forbidden(f"this needs the scope '{scope}', which the key {caller.key_prefix}… does not have")
                _check_query(request, known)
                if not streamed:
                    _check_body(await request.body())
                key = request.headers.get("idempotency-key") if creates else None
                if key is None:
                    response = await inner(request)
                else:
                    response = await _once(request, key, inner, streamed=streamed)
                await session.commit()
            if request.method != "GET":
                services.send_soon()
            return response

        return handle


def router(tag: str) -> APIRouter:
    """A router whose routes are operations."""
    return APIRouter(route_class=Operation, tags=[tag])


def needs(scope: str, **extra: Any) -> dict[str, Any]:
    """The `openapi_extra` of an operation that needs `scope`."""
    if scope not in SCOPES:
        raise ValueError(f"unknown scope {scope}")
    return {"x-scope": scope, **extra}


async def authenticate(session: AsyncSession, request: Request, services: Services) -> Caller:
    """The caller of `Authorization: Bearer gk_…`, or 401."""
    header = request.headers.get("authorization", "")
    kind, _, token = header.partition(" ")
    if kind.lower() != "bearer" or not token:
        raise Unauthenticated("send an API key: 'Authorization: Bearer gk_…'", headers={"WWW-Authenticate": "Bearer"})
    key = await session.scalar(select(ApiKey).where(ApiKey.hash == services.vault.hash_key(token.strip())))
    now = datetime.now(UTC)
    if key is None or key.revoked_at is not None:
        raise Unauthenticated("this API key is not known here or was revoked", headers={"WWW-Authenticate": "Bearer"})
    if key.expires_at is not None and key.expires_at <= now:
        raise Unauthenticated(
            f"this API key expired at {key.expires_at.isoformat()}", headers={"WWW-Authenticate": "Bearer"}
        )
    if key.last_used_at is None or now - key.last_used_at > timedelta(minutes=1):
        await session.execute(update(ApiKey).where(ApiKey.id == key.id).values(last_used_at=now))
        await session.commit()
    return Caller(key.project_id, key.id, key.prefix, frozenset(key.scopes))


def _query_names(dependant: Any) -> Iterator[str]:
    for field in dependant.query_params:
        yield field.alias
    for inner in dependant.dependencies:
        yield from _query_names(inner)


def _check_query(request: Request, known: set[str]) -> None:
    for name in request.query_params:
        if name not in known:
            message = f"unknown query parameter '{name}'{nearest(name, known)}"
            raise Invalid.at(f"/{name}", "unknown_parameter", message)


def _check_body(body: bytes) -> None:
    if b"\x00" in body or _NUL_ESCAPE.search(body):
        raise Invalid(
            "the body contains a NUL character (U+0000), which cannot be stored; remove it", code="nul_character"
        )
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8: byte {error.start} cannot be read") from None


async def _once(
    request: Request, key: str, inner: Callable[[Request], Coroutine[Any, Any, Response]], *, streamed: bool
) -> Response:
    """Run the endpoint once per key: a stored answer is replayed, a second request in flight is told to wait."""
    session: AsyncSession = request.state.session
    caller: Caller = request.state.caller
    if not 1 <= len(key) <= 255:
        raise BadRequest("an Idempotency-Key has 1 to 255 characters")
    place = {"project_id": caller.project_id, "method": request.method, "path": request.url.path, "key": key}
    lock = int.from_bytes(hashlib.sha256("\n".join(place.values()).encode()).digest()[:8], "big", signed=True)
    if not await session.scalar(select(func.pg_try_advisory_xact_lock(lock))):
        raise Conflict(
            "a request with this Idempotency-Key is still running",
            code="idempotency_in_flight",
            headers={"Retry-After": "1"},
        )
    stored = await session.get(IdempotencyKey, place)
    if stored is not None:
        if stored.body_hash != await _hash_body(request, streamed):
            raise Invalid(
                "this Idempotency-Key was used with another body; take a new key for a new request",
                code="idempotency_mismatch",
            )
        return Response(stored.body, stored.status, {**stored.headers, "Idempotent-Replayed": "true"})
    response = await inner(request)
    if response.status_code < 300:
        body_hash = request.state.body_hash if streamed else await _hash_body(request, streamed)
        kept = {name: value for name, value in response.headers.items() if name in ("content-type", "etag", "location")}
        session.add(
            IdempotencyKey(
                **place, body_hash=body_hash, status=response.status_code, headers=kept, body=bytes(response.body)
            )
        )
        await session.flush()
    return response


async def _hash_body(request: Request, streamed: bool) -> str:
    digest = body_digest(request)
    if streamed:
        async for piece in request.stream():
            digest.update(piece)
    else:
        digest.update(await request.body())
    return str(digest.hexdigest())


def body_digest(request: Request) -> Any:
    """A sha256 that has seen the query; the body's bytes go in as they were sent."""
    return hashlib.sha256(request.url.query.encode() + b"\n")
