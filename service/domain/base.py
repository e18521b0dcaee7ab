"""`Value`, the base of every domain model, and the errors that it gives.

A value is frozen, refuses unknown fields and names the nearest known one, so that a typo in a rubric
or a job is an error with a place in it, never an option silently left at its default.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

Loc = tuple[int | str, ...]


class Value(BaseModel):
    """A frozen value without unknown fields; numbers in it are always finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, ser_json_inf_nan="constants")

    @model_validator(mode="wrap")
    @classmethod
    def _name_the_nearest_field(cls, data: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        try:
            return handler(data)
        except ValidationError as error:
            details = error.errors(include_url=False)
            faults = [item for item in details if item["type"] != _FOLLOWS_FROM_ANOTHER]
            if faults == details and not any(_is_unknown_field(item) for item in details):
                raise
            raise ValidationError.from_exception_data(
                cls.__name__, [_line(item, cls.model_fields.keys()) for item in faults]
            ) from None


_FOLLOWS_FROM_ANOTHER = "default_factory_not_called"
"""Pydantic's complaint about a default that it could not work out because another field is wrong: nothing to be done about."""


def _is_unknown_field(item: Any) -> bool:
    return item["type"] == "extra_forbidden" and len(item["loc"]) == 1


def _line(item: Any, known: Any) -> InitErrorDetails:
    kind: Any = item["type"]
    message = item["msg"]
    if _is_unknown_field(item):
        name = str(item["loc"][0])
        kind, message = "unknown_field", f"unknown field '{name}'{nearest(name, known)}"
    return InitErrorDetails(type=_custom(kind, message), loc=item["loc"], input=item["input"])


def _custom(kind: str, message: str) -> PydanticCustomError:
    return PydanticCustomError(kind, message)


def nearest(name: str, known: Any, what: str = "fields") -> str:
    """`; did you mean 'x'?` for the known name most like `name`, or the known names when none is."""
    names = sorted(str(item) for item in known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known {what}: {', '.join(names)}" if names else ""


def refuse(*problems: tuple[Loc, str, str]) -> NoReturn:
    """Raise a validation error with one line per `(place, code, sentence)`; for rules that join fields."""
    raise ValidationError.from_exception_data(
        "value",
        [InitErrorDetails(type=_custom(code, sentence), loc=loc, input=None) for loc, code, sentence in problems],
    )


def whole_number(text: str) -> int | None:
    """The number that `text` spells in ASCII digits, if it fits 64 bits ('²' is a digit to `str.isdigit`, and no number)."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def canonical_json(value: Any) -> str:
    """The one spelling of a JSON value: sorted keys, no spaces, UTF-8, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_hash(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def own_faults(details: Sequence[Any]) -> list[Any]:
    """Pydantic's errors without those that only follow from another one (a default that another field would have given)."""
    return [item for item in details if item["type"] != "default_factory_not_called"]


def pointer(loc: Sequence[int | str], body: Any) -> str:
    """The JSON pointer (RFC 6901) of a validation error.

    Pydantic puts the tags of unions between the names; they are passed over. A name that the body does not have stays: it is
    missing, or stands in a block that was left out.
    """
    here = body
    parts: list[str] = []
    for position, step in enumerate(loc):
        last = position == len(loc) - 1
        if _has(here, step, last):
            here = here[step]
        elif _is_tag(step, here, last):
            continue
        else:
            here = {}
        parts.append(escape(step))
    return "".join(f"/{part}" for part in parts)


def escape(step: int | str) -> str:
    """One step of a JSON pointer, as it is written."""
    return str(step).replace("~", "~0").replace("/", "~1")


def _has(here: Any, step: int | str, last: bool) -> bool:
    """Whether a step names something in the body, and not a union's tag that is spelled the same."""
    if isinstance(here, dict):
        return step in here and not (here.get("type") == step and not last)
    return isinstance(here, list) and isinstance(step, int) and step < len(here)


def _is_tag(step: int | str, here: Any, last: bool) -> bool:
    """Whether a step of pydantic's names a branch of a union and nothing in the body."""
    if isinstance(here, dict):
        return (here.get("type") == step and not last) or (isinstance(step, str) and "[" in step)
    return True
