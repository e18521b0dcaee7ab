"""Reading a value of somebody else's format: every refusal has a place, a code and a sentence, and what was read is remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from service.domain.base import escape, nearest

Turn = dict[str, str]
"""A message as ours are written: `role` and `content`."""

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong at one place; `pointer` is a JSON pointer into what was sent."""

    pointer: str
    code: str
    message: str


class FormatError(ValueError):
    """A value that is not what its format says, or that cannot become what is asked for."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__(faults[0].message)
        self.faults = faults


def fail(pointer: str, code: str, message: str) -> NoReturn:
    """Raise a `FormatError` of one fault."""
    raise FormatError(Fault(pointer, code, message))


@dataclass(slots=True)
class Source:
    """An object of the format, field by field. `taken` has the names that were asked for; the others are nobody's yet."""

    row: Mapping[str, Any]
    place: str = ""
    taken: set[str] = field(default_factory=set)

    def at(self, name: str) -> str:
        """The pointer of a field."""
        return f"{self.place}/{escape(name)}"

    def has(self, name: str) -> bool:
        """Whether the field is there and not null; it counts as read only if it is asked for."""
        return self.row.get(name) is not None

    def value(self, name: str) -> Any:
        """A field that must be there."""
        self.taken.add(name)
        if self.row.get(name) is None:
            fail(self.at(name), "missing", f"'{name}' is missing{nearest(name, self.row.keys(), 'fields of this row')}")
        return self.row[name]

    def text(self, name: str) -> str:
        """A string that must be there."""
        found = self.value(name)
        if not isinstance(found, str):
            fail(self.at(name), "string_type", f"'{name}' is {_kind(found)}; it must be a text")
        return found

    def items(self, name: str) -> list[Any]:
        """A list that must be there, with something in it."""
        found = self.value(name)
        if not isinstance(found, list) or not found:
            what = "an empty list" if isinstance(found, list) else _kind(found)
            fail(self.at(name), "list_type", f"'{name}' is {what}; it must be a list with something in it")
        return found

    def number(self, name: str) -> float:
        """A number that must be there."""
        found = self.value(name)
        if isinstance(found, bool) or not isinstance(found, int | float):
            fail(self.at(name), "number_type", f"'{name}' is {_kind(found)}; it must be a number")
        return found

    def turns(self, name: str) -> list[Turn]:
        """A conversation that must be there."""
        return turns(self.items(name), self.at(name))

    def prompt(self, name: str = "prompt") -> str | list[Turn]:
        """A text, or a conversation."""
        if isinstance(self.row.get(name), str):
            return self.text(name)
        if isinstance(self.row.get(name), list):
            return self.turns(name)
        self.value(name)
        fail(self.at(name), "invalid_prompt", f"'{name}' is {_kind(self.row[name])}; it must be a text or messages")

    def inner(self, name: str) -> Source:
        """An object inside this one."""
        found = self.value(name)
        if not isinstance(found, dict):
            fail(self.at(name), "object_type", f"'{name}' is {_kind(found)}; it must be an object")
        return Source(found, self.at(name))

    def rest(self) -> dict[str, Any]:
        """The fields that nobody has asked for."""
        return {name: value for name, value in self.row.items() if name not in self.taken}


def turns(values: Sequence[Any], place: str) -> list[Turn]:
    """Messages of any chat format as ours: role and text. Faults where one says something that text cannot hold."""
    return [_turn(value, f"{place}/{position}") for position, value in enumerate(values)]


def _turn(value: Any, place: str) -> Turn:
    if not isinstance(value, dict):
        fail(place, "object_type", f"a message is {_kind(value)}; it must be an object with 'role' and 'content'")
    if value.get("tool_calls") or value.get("function_call"):
        name = "tool_calls" if value.get("tool_calls") else "function_call"
        fail(f"{place}/{name}", "tool_calls", "calls of tools are no text, and models are trained on text here")
    role = value.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        known = "system, developer, user or assistant"
        fail(f"{place}/role", "invalid_role", f"the role is {role!r}; conversations hold {known} messages here")
    return {"role": _ROLES[role], "content": _content(value.get("content"), f"{place}/content")}


def _content(value: Any, place: str) -> str:
    """A text, or parts that are texts."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        fail(place, "invalid_content", f"the content is {_kind(value)}; it must be a text or a list of text parts")
    texts = []
    for position, part in enumerate(value):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in _TEXT_PARTS or not isinstance(part.get("text"), str):
            message = f"a part of type {kind!r} is no text, and models read text here; leave the row out"
            fail(f"{place}/{position}", "invalid_content", message)
        texts.append(part["text"])
    return "".join(texts)


def same(left: Any, right: Any) -> bool:
    """Whether two JSON values are equal: 1 is 1.0, and true is not 1."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(value, right[name]) for name, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return bool(left == right)


def remainder(source: Mapping[str, Any], written: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What `written` lacks to be `source`: fields to set, and fields to leave out."""
    fields = {name: value for name, value in source.items() if name not in written or not same(value, written[name])}
    return fields, [name for name in written if name not in source]


def restored(written: Mapping[str, Any], fields: Mapping[str, Any], absent: Sequence[str]) -> dict[str, Any]:
    """`written` with its remainder: the source again."""
    return {**{name: value for name, value in written.items() if name not in absent}, **fields}


def _kind(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "null")
