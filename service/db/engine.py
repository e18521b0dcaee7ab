"""Engines and sessions: async for the API, sync for the workers, the same statements on both."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from service.config import DatabaseSettings, psycopg_url


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _options(name: str, options: str = "") -> dict[str, Any]:
    return {
        "json_serializer": _dumps,
        "pool_pre_ping": True,
        "hide_parameters": True,
        "connect_args": {
            "application_name": name,
            "connect_timeout": 5,
            "options": f"-c timezone=UTC {options}",
            # A peer that has gone without a word is noticed within half a minute, not when the kernel gives up (hours).
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 4,
            "tcp_user_timeout": 30_000,
        },
    }


class AsyncDatabase:
    """The API's pool."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self.engine: AsyncEngine = create_async_engine(
            psycopg_url(settings.url),
            pool_size=settings.pool_size,
            max_overflow=settings.pool_size,
            **_options("grape-api"),
        )

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """A session; who opens it commits it. Leaving it without a commit rolls back."""
        async with AsyncSession(self.engine, expire_on_commit=False) as session:
            yield session

    async def dispose(self) -> None:
        """Close the pool."""
        await self.engine.dispose()


class Database:
    """A worker's pool."""

    def __init__(self, settings: DatabaseSettings, name: str = "grape-worker") -> None:
        # Who is stopped in the middle of a transaction must not keep its locks: others take its work over.
        idle = f"-c idle_in_transaction_session_timeout={round(settings.idle_transaction_s * 1000)}"
        options = _options(name, idle)
        self.engine: Engine = create_engine(psycopg_url(settings.url), pool_size=8, max_overflow=16, **options)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that commits when the block ends and rolls back when it raises."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    def dispose(self) -> None:
        """Close the pool."""
        self.engine.dispose()
