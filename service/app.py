"""The API process: `create_app` is its composition root (`uvicorn --factory service.app:create_app`)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from service import problems
from service.api import ROUTERS
from service.config import Settings
from service.jobs.feed import EventFeed
from service.middleware import BodyLimit, RequestIds
from service.services import Services
from service.stopping import on_stop_signals
from service.telemetry import Requests

VERSION = "0.1.0"


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application, connected to nothing until its first request."""
    services = Services.build(settings or Settings())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.feed = EventFeed(services.database)
        with on_stop_signals(app.state.feed.stop):
            yield
        await app.state.feed.close()
        await services.close()

    app = FastAPI(
        title="GRAPE",
        version=VERSION,
        summary="Rubrics in, better model out.",
        lifespan=lifespan,
        generate_unique_id_function=_operation_id,
    )
    app.state.services = services
    app.state.requests = Requests()
    problems.install(app)
    for router in ROUTERS:
        app.include_router(router)
    app.add_middleware(BodyLimit, limit_mb=services.settings.limits.body_mb)
    app.add_middleware(RequestIds, note=app.state.requests.note)
    _describe_security(app)
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name


def _describe_security(app: FastAPI) -> None:
    """Say in openapi.json that `/v1` wants a key, and that every error is a problem."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        schema = original()
        components = schema.setdefault("components", {})
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "bearerFormat": "gk_…"}}
        components.setdefault("schemas", {})["Problem"] = _PROBLEM
        answer = {"description": "Problem", "content": {"application/problem+json": {"schema": {"$ref": _REF}}}}
        for path, operations in schema["paths"].items():
            for operation in operations.values():
                if path.startswith("/v1/"):
                    operation["security"] = [{"key": []}]
                    operation["responses"].update({"422": answer, "default": answer})
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


_REF = "#/components/schemas/Problem"
_TEXT = {"type": "string"}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "code", "request_id", "error"],
    "properties": {
        "type": _TEXT,
        "title": _TEXT,
        "status": {"type": "integer"},
        "detail": _TEXT,
        "code": _TEXT,
        "request_id": _TEXT,
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": _TEXT,
                "type": _TEXT,
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        },
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"pointer": _TEXT, "code": _TEXT, "message": _TEXT, "line": {"type": "integer"}},
            },
        },
    },
}
