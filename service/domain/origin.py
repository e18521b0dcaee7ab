"""Where imported values came from, and what our own fields do not give back. No model and no grader sees it."""

from __future__ import annotations

from pydantic import JsonValue

from service.domain.base import Value
from service.domain.conversation import Name


class Origin(Value):
    """Of a dataset's row: `fields` of its own, and those that it did not have."""

    format: Name
    shape: Name
    fields: dict[str, JsonValue] = {}
    absent: list[str] = []


class ItemOrigin(Value):
    """Of a criterion: what its item had, as long as the criterion's `hash` is still this one."""

    hash: str
    fields: dict[str, JsonValue] = {}
    absent: list[str] = []


class RubricOrigin(Value):
    """Of a rubric: the fields of its file, and its criteria's items by key.

    It stands in the authored content alone, so the hash of what completions are graded by does not know it.
    """

    format: Name
    shape: Name
    fields: dict[str, JsonValue] = {}
    items: dict[str, ItemOrigin] = {}
