"""`Operation`: the route class of every `/v1` endpoint, where the rules that all of them share are kept.

In this order: one database session per request, the key (401), its scope (403), unknown query parameters (422), the stored
answer of an idempotency key, then the endpoint (whose path objects give 404 before its body gives 422). A success is
committed before its response is sent; any error rolls everything back.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.tables import ApiKey, IdempotencyKey
from service.domain.base import nearest, pointer
from service.errors import BadRequest, Conflict, Forbidden, Invalid, NotFound, Unauthenticated, UnsupportedMediaType
from service.services import Services

SCOPES = (
    "admin", "rubrics:read", "rubrics:write", "data:read", "data:write", "judges:read", "judges:write", "models:read",
    "models:write", "jobs:read", "jobs:write", "grade",
)  # fmt: skip

_NUL_ESCAPE = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_ODD = re.compile(rb"NaN|Infinity|[eE][+]?\d{3}|\d{309}|\\u[dD][89a-fA-F]")
"""What a body with a number that is not finite, or with half of a surrogate pair, has in it."""
_HALF = re.compile("[\ud800-\udfff]")
DEEPEST = 100
"""How many arrays and objects of a body may stand in each other."""


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


class JsonRequest(Request):
    """A request whose body is JSON that can be stored and given back as it came, or is refused."""

    async def json(self) -> Any:
        """The body, read once."""
        if not hasattr(self, "_json"):
            self._json: Any = _loads(await self.body())
        return self._json


def _loads(body: bytes) -> Any:
    try:
        value = json.loads(body, object_pairs_hook=_object_without_twins)
    except RecursionError:
        raise Invalid(_TOO_DEEP, code="too_deep") from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise Invalid(f"the body holds a number that cannot be read: {error}", code="invalid_number") from None
    if body.count(b"[") + body.count(b"{") > DEEPEST or _ODD.search(body):
        faults = list(_faults(value))
        if faults:
            raise Invalid.of(faults)
    return value


_TOO_DEEP = f"the body nests arrays and objects more than {DEEPEST} deep"


def _object_without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise Invalid(f"the field '{name}' stands twice in one object; which one is meant?", code="duplicate_field")
    return found


def _faults(value: Any) -> Iterator[dict[str, Any]]:
    """What cannot be stored, with its place: numbers that are not finite, half characters, and too deep a nesting."""
    waiting: list[tuple[tuple[int | str, ...], Any]] = [((), value)]
    while waiting:
        loc, here = waiting.pop()
        if isinstance(here, dict | list):
            if len(loc) >= DEEPEST:
                yield {"pointer": "", "code": "too_deep", "message": _TOO_DEEP}
                return
            inside = here.items() if isinstance(here, dict) else enumerate(here)
            waiting.extend(((*loc, step), item) for step, item in inside)
            here = "".join(here) if isinstance(here, dict) else ""
        place = pointer(loc, value).encode(errors="replace").decode()
        if isinstance(here, float) and not math.isfinite(here):
            message = f"{place or 'the body'}: {here} is no number in JSON, or too large for 64 bits"
            yield {"pointer": place, "code": "finite_number", "message": message}
        elif isinstance(here, str) and not here.isascii() and _HALF.search(here):
            message = f"{place or 'the body'}: a lone surrogate (\\ud800 to \\udfff) is no character"
            yield {"pointer": place, "code": "invalid_character", "message": message}


class Operation(APIRoute):
    """See the module's first lines."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wrap the endpoint."""
        inner = super().get_route_handler()
        extra = self.openapi_extra or {}
        scope: str = extra.get("x-scope", "")
        streamed: bool = extra.get("x-streamed-body", False)
        known = set(_query_names(self.dependant))
        creates = "POST" in (self.methods or ()) and extra.get("x-creates", True)

        async def handle(request: Request) -> Response:
            if not streamed:
                request = JsonRequest(request.scope, request.receive)
            services: Services = request.app.state.services
            async with services.database.session() as session:
                request.state.session = session
                caller = await authenticate(session, request, services)
                request.state.caller = caller
                if not caller.has(scope):
                    raise Forbidden(f"this needs the scope '{scope}', which the key {caller.key_prefix}… does not have")
                _check_path(request)
                _check_query(request, known)
                if not streamed:
                    await _check_body(request)
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


def _check_path(request: Request) -> None:
    if "\x00" in request.scope["path"]:
        raise NotFound("there is nothing at this path: it holds a NUL character")


def _check_query(request: Request, known: set[str]) -> None:
    for name, value in request.query_params.multi_items():
        if "\x00" in value:
            raise Invalid.at(f"/{name}", "nul_character", f"the query parameter '{name}' holds a NUL character")
        if name not in known:
            message = f"unknown query parameter '{name}'{nearest(name, known, 'parameters')}"
            raise Invalid.at(f"/{name}", "unknown_parameter", message)


async def _check_body(request: Request) -> None:
    body = await request.body()
    if not body:
        return
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))):
        raise UnsupportedMediaType(
            f"the body is said to be {kind or 'nothing'}; send JSON with the header 'Content-Type: application/json'"
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("JSON bodies are sent without a Content-Encoding; only rows may be compressed")
    if b"\x00" in body or _NUL_ESCAPE.search(body):
        raise Invalid(
            "the body contains a NUL character (U+0000), which cannot be stored; remove it", code="nul_character"
        )
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8: byte {error.start} cannot be read") from None
    # Here and not when FastAPI asks for it, which takes every error but this one for a body that "cannot be parsed".
    with contextlib.suppress(json.JSONDecodeError):
        await request.json()


async def _once(
    request: Request, key: str, inner: Callable[[Request], Coroutine[Any, Any, Response]], *, streamed: bool
) -> Response:
    """Run the endpoint once per key: a stored answer is replayed, a second request in flight is told to wait."""
    session: AsyncSession = request.state.session
    caller: Caller = request.state.caller
    if not 1 <= len(key) <= 255:
        raise BadRequest("an Idempotency-Key has 1 to 255 characters")
    place = {"project_id": caller.project_id, "method": request.method, "path": request.scope["path"], "key": key}
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
    return hashlib.sha256(request.scope["query_string"] + b"\n")
