"""What endpoints ask for: the session, the caller, the services, a page of a list."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import Depends, Query, Request
from pydantic import BaseModel
from sqlalchemy import tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import Invalid, PreconditionFailed, PreconditionRequired
from service.operation import Caller
from service.services import Services

T = TypeVar("T")
R = TypeVar("R")


def _session(request: Request) -> AsyncSession:
    session: AsyncSession = request.state.session
    return session


def _caller(request: Request) -> Caller:
    caller: Caller = request.state.caller
    return caller


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


SessionDep = Annotated[AsyncSession, Depends(_session)]
CallerDep = Annotated[Caller, Depends(_caller)]
ServicesDep = Annotated[Services, Depends(_services)]


class Listing(BaseModel, Generic[T]):
    """One page of a list."""

    data: list[T]
    next_page_token: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Which rows are asked for: at most `limit` after the key in the token."""

    limit: int
    after: list[Any] | None

    async def fetch(
        self,
        session: AsyncSession,
        statement: Any,
        key: Sequence[Any],
        show: Callable[[Any], R],
        key_of: Callable[[Any], Sequence[Any]],
        *,
        descending: bool = False,
    ) -> Listing[R]:
        """Rows of `statement` in the order of `key` (columns that are unique together), keyset and never offset."""
        if self.after is not None:
            if len(self.after) != len(key) or not all(map(_fits, self.after, key)):
                raise _bad_token()
            here = tuple_(*self.after)
            statement = statement.where(tuple_(*key) < here if descending else tuple_(*key) > here)
        statement = statement.order_by(*[column.desc() if descending else column for column in key])
        rows = (await session.execute(statement.limit(self.limit + 1))).all()
        values = [row[0] if len(row) == 1 else row for row in rows]
        token = encode_token(key_of(values[self.limit - 1])) if len(values) > self.limit else None
        return Listing(data=[show(row) for row in values[: self.limit]], next_page_token=token)


def encode_token(key: Sequence[Any]) -> str:
    """An opaque page token for the last key of a page."""
    return base64.urlsafe_b64encode(json.dumps(list(key)).encode()).decode().rstrip("=")


def _fits(value: Any, column: Any) -> bool:
    """Whether a token's value can be compared with the column; a token of another list, or a made-up one, may not."""
    kind = column.type.python_type
    if kind is int:
        return type(value) is int and abs(value) < 2**63
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return kind is str and isinstance(value, str) and "\x00" not in value and value.isprintable()


def _bad_token() -> Invalid:
    return Invalid.at("/page_token", "invalid_page_token", "the page_token is not one of this list; start without it")


def _page(
    limit: Annotated[int, Query(ge=1, le=1000, description="How many rows at most")] = 20,
    page_token: Annotated[str | None, Query(description="`next_page_token` of the page before")] = None,
) -> Page:
    if page_token is None:
        return Page(limit, None)
    try:
        after = json.loads(base64.urlsafe_b64decode(page_token + "=" * (-len(page_token) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        raise _bad_token() from None
    if not isinstance(after, list):
        raise _bad_token()
    return Page(limit, after)


PageDep = Annotated[Page, Depends(_page)]

SortDep = Annotated[
    Literal["created_at", "-created_at"], Query(description="Oldest first, or newest first with a minus")
]


def check_if_match(request: Request, etag: str) -> None:
    """428 without `If-Match`, 412 with another ETag than the head's."""
    wanted = request.headers.get("if-match")
    if wanted is None:
        raise PreconditionRequired(
            f"send If-Match with the ETag that you have read (now {etag}), so that nobody's change is overwritten"
        )
    if wanted.strip() != "*" and etag not in [part.strip().removeprefix("W/") for part in wanted.split(",")]:
        raise PreconditionFailed(
            f"this has changed since you read it; its ETag is now {etag}: read it again", headers={"ETag": etag}
        )
