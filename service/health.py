"""`/livez` and `/readyz`, without a key."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from sqlalchemy import text

from service.db.migrate import head
from service.services import Services

health = APIRouter(tags=["health"])
_HEAD = head()


@health.get("/livez")
async def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@health.get("/readyz")
async def readyz(request: Request) -> JSONResponse:
    """Database at the revision of this code, and a writable store; a broker that is away only degrades."""
    services: Services = request.app.state.services
    checks: dict[str, Any] = {
        "database": await _database(services),
        "storage": await asyncio.to_thread(services.store.problem) or "ok",
    }
    ready = all(value == "ok" for value in checks.values())
    checks["broker"] = "ok" if await asyncio.to_thread(services.bell.reachable) else "away: work starts by polling"
    status = "ready" if ready and checks["broker"] == "ok" else "degraded" if ready else "unavailable"
    return JSONResponse({"status": status, "checks": checks}, 200 if ready else 503)


async def _database(services: Services) -> str:
    try:
        async with services.database.session() as session:
            revision = await session.scalar(text("SELECT version_num FROM alembic_version"))
    except Exception as error:
        return f"does not answer: {type(error).__name__}"
    return "ok" if revision == _HEAD else f"is at revision {revision}, this code needs {_HEAD}: run the migrations"
