"""Values between the process of the tests and the process of the completion: copied where they are plain, else named.

What is copied: None, numbers, text, bytes, ranges, lists, tuples, dicts, sets, and the standard library's own containers, decimals,
fractions and dates. The reader builds them anew from exact types, so no object of the completion, with an `__eq__` of its own
making, ever stands in the process of the tests. Anything else crosses as a handle. JSON in frames; no pickle, no code.
"""

from __future__ import annotations

import builtins
import collections
import json
import os
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any

MOST_BYTES = 32 << 20
"""Of one message."""


class Ended(BaseException):
    """The other process is gone, or speaks another language: nothing more will come."""


class TooLarge(ValueError):
    """A value that cannot be sent."""


def read_exactly(fd: int, count: int) -> bytes:
    """So many bytes, or `Ended`."""
    parts = []
    while count:
        try:
            part = os.read(fd, min(count, 1 << 20))
        except OSError:
            part = b""
        if not part:
            raise Ended
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def read_all(fd: int) -> bytes:
    """Until the other side closes."""
    parts = []
    while part := os.read(fd, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def write_all(fd: int, data: bytes) -> None:
    """All of it, or `Ended`."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except OSError:
            raise Ended from None


def send(fd: int, message: Any) -> None:
    """A frame."""
    data = json.dumps(message).encode()
    if len(data) > MOST_BYTES:
        raise TooLarge(
            f"a value of {len(data)} bytes; at most {MOST_BYTES} can be passed between the tests and the code"
        )
    write_all(fd, struct.pack("<I", len(data)) + data)


def receive(fd: int) -> Any:
    """The next frame."""
    (size,) = struct.unpack("<I", read_exactly(fd, 4))
    if size > MOST_BYTES:
        raise Ended
    data = read_exactly(fd, size)
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Ended from None


class Handles:
    """Objects that stay here, by the number under which the other side knows them."""

    def __init__(self) -> None:
        self.objects: list[Any] = []
        self._numbers: dict[int, int] = {}

    def number(self, thing: Any) -> int:
        """The same object has the same number; it is kept alive."""
        key = id(thing)
        if key not in self._numbers:
            self._numbers[key] = len(self.objects)
            self.objects.append(thing)
        return self._numbers[key]

    def __getitem__(self, number: Any) -> Any:
        if type(number) is not int or not 0 <= number < len(self.objects):
            raise Ended
        return self.objects[number]


Describe = Callable[[Any], "dict[str, Any] | None"]
"""Of an object that stays here: what the other side is told of it."""

_MUTABLE: dict[type, str] = {
    list: "l", dict: "d", set: "s", bytearray: "B", collections.deque: "q", collections.OrderedDict: "O",
    collections.defaultdict: "D", collections.Counter: "C",
}  # fmt: skip
_DICTS = ("d", "O", "D", "C")


class Writer:
    """One message's values. Containers that can change stand in a table, so that shared and circular ones stay so."""

    def __init__(self, own: Handles, describe: Describe, foreign: Callable[[Any], int | None]) -> None:
        self.own, self.describe, self.foreign = own, describe, foreign
        self.table: list[Any] = []
        self.containers: list[Any] = []
        self._places: dict[int, int] = {}

    def known(self, rows: list[Any], containers: Sequence[Any]) -> None:
        """These containers stand first in the table, and the other side has them."""
        self.table += [[row[0], "" if row[0] == "B" else [], *row[2:]] for row in rows]
        self.containers += containers
        self._places.update((id(container), place) for place, container in enumerate(containers))

    def value(self, v: Any) -> Any:
        """Its form in the message."""
        kind = type(v)
        if v is None or kind is bool or kind is str or kind is float:
            return v
        if kind is int:
            return v if -(1 << 63) < v < 1 << 63 else ["i", hex(v)]
        if kind is tuple:
            return ["t", [self.value(item) for item in v]]
        if kind in _MUTABLE:
            return ["m", self._container(v, _MUTABLE[kind], v)]
        if (number := self.foreign(v)) is not None:
            return ["o", number]
        return self._rarer(v, kind)

    def _container(self, v: Any, tag: str, content: Any) -> int:
        if id(v) not in self._places:
            place = self._places[id(v)] = len(self.table)
            self.table.append(None)
            self.containers.append(v)
            self.table[place] = [tag, *self.content(tag, content)]
        return self._places[id(v)]

    def content(self, tag: str, v: Any) -> list[Any]:
        """What is in a container, its containers by their place."""
        if tag in _DICTS:
            return [[[self.value(key), self.value(item)] for key, item in dict.items(v)]]
        if tag == "B":
            return [bytes(v).decode("latin-1")]
        items = [self.value(item) for item in v]
        return [items, v.maxlen] if tag == "q" else [items]

    def _rarer(self, v: Any, kind: type) -> Any:
        if kind is bytes:
            return ["b", v.decode("latin-1")]
        if kind is frozenset:
            return ["f", [self.value(item) for item in v]]
        if kind is complex:
            return ["c", v.real, v.imag]
        if kind is range or kind is slice:
            return [kind.__name__, self.value(v.start), self.value(v.stop), self.value(v.step)]
        if v is Ellipsis or v is NotImplemented:
            return ["...", v is Ellipsis]
        if isinstance(v, type) and getattr(builtins, v.__name__, None) is v:
            return ["y", v.__name__]
        text = _as_text(v, kind)
        if text is not None:
            return ["x", kind.__module__, kind.__name__, text]
        described = self.describe(v)
        if described is not None:
            return ["h", self.own.number(v), described]
        for base in (int, float, str, bytes):
            if isinstance(v, base):
                return self.value(_PLAIN[base](v))
        if isinstance(v, tuple):
            items, fields = [self.value(item) for item in tuple.__iter__(v)], getattr(kind, "_fields", None)
            return ["n", kind.__name__, [str(name) for name in fields], items] if fields else ["t", items]
        if isinstance(v, frozenset):
            return ["f", [self.value(item) for item in frozenset.__iter__(v)]]
        for base in (list, dict, set):
            if isinstance(v, base):
                return ["m", self._container(v, _MUTABLE[base], v if base is dict else base.__iter__(v))]
        raise TypeError(f"a {kind.__name__} cannot be passed between the tests and the code")


_PLAIN: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: lambda v: bytes.__add__(v, b""),
}
_TEXTS = {
    ("decimal", "Decimal"): str, ("fractions", "Fraction"): str, ("uuid", "UUID"): str,
    ("datetime", "date"): lambda v: v.isoformat(), ("datetime", "datetime"): lambda v: v.isoformat(),
    ("datetime", "time"): lambda v: v.isoformat(),
    ("datetime", "timedelta"): lambda v: f"{v.days} {v.seconds} {v.microseconds}",
}  # fmt: skip


def _as_text(v: Any, kind: type) -> str | None:
    write = _TEXTS.get((kind.__module__, kind.__name__))
    if write is None or getattr(sys.modules.get(kind.__module__), kind.__name__, None) is not kind:
        return None
    return write(v)


MALFORMED = (TypeError, ValueError, LookupError, AttributeError, RecursionError, ArithmeticError)
"""What reading a message that no writer has written may end in."""


class Reader:
    """Builds the values of one message. `Ended`, or one of `MALFORMED`, for a message that no writer has written."""

    def __init__(
        self, table: list[Any], own: Handles, remote: Callable[[int, dict[str, Any]], Any], known: Sequence[Any] = ()
    ) -> None:
        """`known` containers are the first ones of the table: they are there already, with what they hold."""
        self.own, self.remote = own, remote
        if type(table) is not list or len(table) < len(known):
            raise Ended
        self.containers = [*known, *(_empty(row) for row in table[len(known) :])]
        for row, container in list(zip(table, self.containers, strict=True))[len(known) :]:
            self.fill(container, row)

    def fill(self, container: Any, row: list[Any]) -> None:
        """Put into a container what it holds, in place of what it held."""
        tag, content = row[0], row[1]
        if tag == "B":
            container[:] = content.encode("latin-1")
            return
        if tag in _DICTS:
            pairs = [(self.value(key), self.value(item)) for key, item in content]
            container.clear()
            for key, item in pairs:
                dict.__setitem__(container, key, item)
            return
        items = [self.value(item) for item in content]
        container.clear()
        (container.update if tag == "s" else container.extend)(items)

    def value(self, v: Any) -> Any:
        """The value of its form."""
        if type(v) is not list:
            return v
        try:
            return self._tagged(v[0], v[1:])
        except (IndexError, KeyError, AttributeError):
            raise Ended from None

    def _tagged(self, tag: str, rest: list[Any]) -> Any:
        if tag == "m":
            return self.containers[rest[0]]
        if tag == "t":
            return tuple(self.value(item) for item in rest[0])
        if tag == "i":
            return int(rest[0], 16)
        if tag == "o":
            return self.own[rest[0]]
        if tag == "h":
            return self.remote(int(rest[0]), dict(rest[1]))
        if tag == "b":
            return rest[0].encode("latin-1")
        if tag == "f":
            return frozenset(self.value(item) for item in rest[0])
        if tag == "c":
            return complex(rest[0], rest[1])
        if tag in ("range", "slice"):
            return {"range": range, "slice": slice}[tag](*(self.value(item) for item in rest))
        if tag == "...":
            return Ellipsis if rest[0] else NotImplemented
        if tag == "n":
            made = collections.namedtuple(rest[0], rest[1])  # type: ignore[misc]
            return made(*(self.value(item) for item in rest[2]))
        if tag == "y":
            kind = getattr(builtins, rest[0])
            if isinstance(kind, type):
                return kind
            raise Ended
        if tag == "x":
            return _from_text(rest[0], rest[1], rest[2])
        raise Ended


def _empty(row: Any) -> Any:
    tag = row[0]
    if tag == "q":
        return collections.deque(maxlen=row[2])
    for kind, name in _MUTABLE.items():
        if name == tag:
            return kind()
    raise Ended


def _from_text(module: str, name: str, text: str) -> Any:
    if (module, name) not in _TEXTS or type(text) is not str:
        raise Ended
    kind = getattr(__import__(module), name)
    if name == "timedelta":
        return kind(*(int(word) for word in text.split()))
    return kind.fromisoformat(text) if module == "datetime" else kind(text)
