"""The error tree. It knows no web framework; `service.problems` renders it as problem+json.

Every error is one sentence that says what to do, a stable code, and the HTTP status that fits it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class GrapeError(Exception):
    """The root: something that a caller is told."""

    status = 500
    code = "internal"
    title = "Internal error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        errors: Sequence[dict[str, Any]] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.param = param
        self.errors = list(errors)
        self.headers = headers or {}


class BadRequest(GrapeError):
    """The request cannot be read at all."""

    status, code, title = 400, "bad_request", "Bad request"


class Unauthenticated(GrapeError):
    """No key, or none that is known and valid."""

    status, code, title = 401, "unauthenticated", "Authentication required"


class Forbidden(GrapeError):
    """The key's scopes do not reach this far."""

    status, code, title = 403, "forbidden", "Permission denied"


class NotFound(GrapeError):
    """Nothing with this id in the caller's project."""

    status, code, title = 404, "not_found", "Not found"


class Conflict(GrapeError):
    """The resource is in a state that does not allow this; the same request will not succeed by repeating it."""

    status, code, title = 409, "conflict", "Conflict"


class PreconditionFailed(GrapeError):
    """`If-Match` names an older state."""

    status, code, title = 412, "precondition_failed", "Precondition failed"


class TooLarge(GrapeError):
    """The body is over the limit."""

    status, code, title = 413, "too_large", "Payload too large"


class UnsupportedMediaType(GrapeError):
    """The body is of a kind, or packed in a way, that is not read here."""

    status, code, title = 415, "unsupported_media_type", "Unsupported media type"


class RangeNotSatisfiable(GrapeError):
    """The `Range` lies outside the file."""

    status, code, title = 416, "range_not_satisfiable", "Range not satisfiable"


class Invalid(GrapeError):
    """The request is readable and wrong; `errors` has one `{pointer, code, message}` per fault."""

    status, code, title = 422, "invalid", "Validation failed"

    @classmethod
    def at(cls, pointer: str, code: str, message: str) -> Invalid:
        """One fault at one place of the body."""
        return cls.of([{"pointer": pointer, "code": code, "message": message}])

    @classmethod
    def of(cls, faults: Sequence[dict[str, Any]]) -> Invalid:
        """Several faults; the first one gives the sentence."""
        first = faults[0]
        return cls(first["message"], code=first["code"], param=first["pointer"], errors=faults)


class PreconditionRequired(GrapeError):
    """A change of a mutable head needs `If-Match`."""

    status, code, title = 428, "precondition_required", "Precondition required"


class Unavailable(GrapeError):
    """A part that the answer needs is away; try again."""

    status, code, title = 503, "unavailable", "Temporarily unavailable"


class GatewayTimeout(GrapeError):
    """Somebody whom the answer needs has not answered in time."""

    status, code, title = 504, "gateway_timeout", "Gateway timeout"
