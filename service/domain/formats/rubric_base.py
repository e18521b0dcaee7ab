"""What all formats of rubrics share: what a reading gives, keys, and criteria that come back with the fields that ours do not have."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.domain.base import content_hash
from service.domain.formats.source import remainder, restored
from service.domain.rubric import Criterion

Write = Callable[[Mapping[str, Any]], dict[str, Any]]
"""A criterion (as JSON) as an item of a format."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something that an author should know of how a place of the file was read."""

    pointer: str
    message: str


@dataclass(slots=True)
class ReadRubric:
    """A rubric out of a file: its content, what the file says of its head, and notes."""

    content: dict[str, Any]
    name: str | None = None
    category: str | None = None
    description: str | None = None
    notes: list[Note] = field(default_factory=list)


def key_of(name: str, taken: set[str], fallback: str) -> str:
    """A key from a name: letters, digits and hyphens; a number follows where it is taken."""
    base = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:48].strip("-") or fallback
    if base in ("prompt", "gate"):
        base = f"{base}-1"
    key, number = base, 1
    while key in taken:
        number += 1
        key = f"{base}-{number}"
    taken.add(key)
    return key


def origin_of(
    origin: Mapping[str, Any], criteria: Sequence[Mapping[str, Any]], items: Sequence[Any], write: Write
) -> dict[str, Any]:
    """What an imported content keeps to be its file again: the file's other fields, and for each criterion the fields of its item.

    `origin`: format, shape and fields.
    """
    kept = {}
    for criterion, item in zip(criteria, items, strict=True):
        fields, absent = remainder(item, write(criterion))
        if fields or absent:
            kept[str(criterion["key"])] = {"hash": fingerprint(criterion), "fields": fields, "absent": absent}
    return {**origin, "items": kept}


def item_of(criterion: Mapping[str, Any], origin: Mapping[str, Any] | None, write: Write) -> dict[str, Any]:
    """A criterion as an item; with what it came with, if it is still what was imported."""
    written = write(criterion)
    kept = (origin or {}).get("items", {}).get(criterion["key"])
    if kept is None or kept["hash"] != fingerprint(criterion):
        return written
    return restored(written, kept["fields"], kept["absent"])


def fingerprint(criterion: Mapping[str, Any]) -> str:
    """The hash of a criterion with its defaults filled in."""
    return content_hash(Criterion.model_validate(dict(criterion)).model_dump(mode="json"))
