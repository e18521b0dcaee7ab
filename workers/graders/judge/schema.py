"""The form of a reply as a JSON schema, for endpoints that can be held to one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.domain.rubric import Criterion, LevelScale, UnitScale


def response_format(criteria: Sequence[Criterion]) -> dict[str, Any]:
    """The `response_format` of a question: exactly the fields that its text asks for, in the same order.

    Every field is required and none may be added, as strict endpoints demand. The nonce is any string: a grammar that forced it
    would say nothing about who wrote the reply, and the endpoint would compile a new grammar for each question. Ranges and the
    number of verdicts are left to the reader of the reply, because not every endpoint knows them.
    """
    entries = [_object({"criterion": _one_of([c.key]), "reasoning": _STRING, "verdict": _verdict(c), "confidence": _NUMBER})
               for c in criteria]  # fmt: skip
    items = entries[0] if len(entries) == 1 else {"anyOf": entries}
    schema = _object({"nonce": _STRING, "verdicts": {"type": "array", "items": items}})
    return {"type": "json_schema", "json_schema": {"name": "verdicts", "strict": True, "schema": schema}}


_STRING: dict[str, Any] = {"type": "string"}
_NUMBER: dict[str, Any] = {"type": ["number", "null"]}


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False,
    }  # fmt: skip


def _one_of(values: list[str]) -> dict[str, Any]:
    return {"type": "string", "enum": values}


def _verdict(criterion: Criterion) -> dict[str, Any]:
    """What the criterion allows, or null for a judge that cannot assess it."""
    if isinstance(criterion.scale, LevelScale):
        return {"type": ["string", "null"], "enum": [*(level.label for level in criterion.scale.levels), None]}
    return {"type": ["number" if isinstance(criterion.scale, UnitScale) else "boolean", "null"]}
