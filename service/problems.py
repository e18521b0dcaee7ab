"""Errors as RFC 9457 problem+json with the OpenAI error object in the same body; never a traceback."""

from __future__ import annotations

import logging
import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from service.domain.base import nearest, own_faults, pointer
from service.errors import GrapeError, Invalid, Unavailable

log = logging.getLogger(__name__)

_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


def problem(request: Request, error: GrapeError) -> JSONResponse:
    """The response for an error."""
    request_id = request.scope.get("request_id", "")
    kind = "server_error" if error.status >= 500 else _OPENAI_TYPES.get(error.status, "invalid_request_error")
    body: dict[str, Any] = {
        "type": f"urn:grape:problem:{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": error.message,
        "code": error.code,
        "request_id": request_id,
        "error": {"message": error.message, "type": kind, "param": error.param, "code": error.code},
    }
    if error.errors:
        body["errors"] = error.errors
    headers = dict(error.headers)
    if error.status == 409 and "Retry-After" not in headers:
        headers["x-should-retry"] = "false"  # OpenAI's clients repeat a 409 by themselves
    return JSONResponse(body, error.status, headers, media_type="application/problem+json")


def validation_problem(details: list[Any], body: Any) -> Invalid:
    """One `Invalid` with a pointer per fault. `details` are pydantic's; a first `body` in their place is dropped."""
    found = []
    for item in own_faults(details):
        loc = list(item["loc"])
        where = "" if loc[:1] == ["body"] else f"{loc[0]} " if loc[:1] in (["query"], ["path"], ["header"]) else ""
        loc = loc[1:] if loc[:1] in (["body"], ["query"], ["path"], ["header"]) else loc
        if item["type"] == "json_invalid":
            message = f"the body is not valid JSON: {item.get('ctx', {}).get('error', item['msg'])} at character {loc[0] if loc else 0}"
            found.append({"pointer": "", "code": "json_invalid", "message": message})
            continue
        place = f"/{loc[0]}" if where else pointer(loc, body)
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "union_tag_invalid":
            tag, known = item["ctx"]["tag"], re.findall(r"'([^']+)'", item["ctx"]["expected_tags"])
            place, message = f"{place}/type", f"unknown type '{tag}'{nearest(tag, known, 'types')}"
        found.append({"pointer": place, "code": item["type"], "message": f"{where}{message}" if where else message})
    first = found[0]
    place = first["pointer"]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return Invalid(f"{place + ': ' if place else ''}{first['message']}{more}", param=place or None, errors=found)


def install(app: FastAPI) -> None:
    """Register the handlers."""

    @app.exception_handler(GrapeError)
    async def _known(request: Request, error: GrapeError) -> JSONResponse:
        return problem(request, error)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return problem(request, validation_problem(list(error.errors()), error.body))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        known = GrapeError(str(error.detail), headers=dict(error.headers or {}))
        known.status = error.status_code
        known.title = HTTPStatus(error.status_code).phrase
        known.code = known.title.lower().replace(" ", "_")
        if error.status_code == 404:
            known.message = f"there is nothing at {request.method} {request.scope['path']}; see /docs"
        return problem(request, known)

    @app.exception_handler(OperationalError)
    @app.exception_handler(InterfaceError)
    @app.exception_handler(PoolTimeout)
    async def _database(request: Request, error: Exception) -> JSONResponse:
        log.error("database: %s", error)
        return problem(request, Unavailable("the database does not answer; try again", headers={"Retry-After": "2"}))
