"""The completion's objects, as the tests see them.

A test's verdict must never be an answer of the code about itself. So what crosses is plain, and where the code is asked for a
comparison or a sum with a plain value, the answer of its own class is not taken: an object that equals everything equals nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workers.sandbox.inside.exceptions import builtin_class, builtin_name, raised, text_of
from workers.sandbox.inside.peer import Peer


class Remote:
    """An object that stays with the code: called, iterated over, its attributes read; equal to nothing plain."""

    def __init__(self, peer: Peer, number: int, known: dict[str, Any]) -> None:
        object.__setattr__(self, "_remote", (peer, number, known))
        object.__setattr__(self, "_constructed", False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Have it called; what a class gives is an object that the tests have asked for by its name."""
        result = _ask(self, "call", list(args), kwargs)
        if type(result) is Remote and _known(self)["kind"] == "class":
            object.__setattr__(result, "_constructed", True)
        return result

    def __getattr__(self, name: str) -> Any:
        return _ask(self, "get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ask(self, "set", name, value)

    def __delattr__(self, name: str) -> None:
        _ask(self, "del", name)

    def __iter__(self) -> Any:
        found = _ask(self, "iter")
        return found if type(found) is Remote else iter(found)

    def __next__(self) -> Any:
        return _ask(self, "next")

    def __instancecheck__(self, thing: Any) -> bool:
        return type(thing) is Remote and _ask(thing, "is", _number(self)) is True

    def __contains__(self, item: Any) -> bool:
        if object.__getattribute__(self, "_constructed"):
            return _ask(self, "function", "contains", [item]) is True
        return any(found is item or found == item for found in self)

    def __bool__(self) -> bool:
        return _typed(self, "bool", bool)

    def __len__(self) -> int:
        return _typed(self, "len", int)

    def __int__(self) -> int:
        return _typed(self, "int", int)

    def __index__(self) -> int:
        return _typed(self, "index", int)

    def __float__(self) -> float:
        return _typed(self, "float", float)

    def __complex__(self) -> complex:
        return _typed(self, "complex", complex)

    def __str__(self) -> str:
        return _typed(self, "str", str)

    def __repr__(self) -> str:
        return _typed(self, "repr", str)

    def __format__(self, wanted: str) -> str:
        return _typed(self, "format", str, wanted)

    def __dir__(self) -> Any:
        return _typed(self, "dir", list)

    def __hash__(self) -> int:
        return _number(self)

    def __getitem__(self, key: Any) -> Any:
        return _ask(self, "function", "getitem", [key])

    def __setitem__(self, key: Any, value: Any) -> None:
        _ask(self, "function", "setitem", [key, value])

    def __delitem__(self, key: Any) -> None:
        _ask(self, "function", "delitem", [key])

    def __enter__(self) -> Any:
        return _ask(self, "special", "__enter__", [])

    def __exit__(self, *about: Any) -> Any:
        return _ask(self, "special", "__exit__", [None, None, None]) is True

    def __eq__(self, other: Any) -> bool:
        return self is other or (type(other) is Remote and _ask(self, "function", "eq", [other]) is True)

    def __ne__(self, other: Any) -> bool:
        return self is not other and (type(other) is not Remote or _ask(self, "function", "ne", [other]) is True)


def _compared(name: str) -> Callable[[Remote, Any], Any]:
    def compare(self: Remote, other: Any) -> Any:
        if type(other) is not Remote:
            return NotImplemented
        return _ask(self, "function", name, [other]) is True

    return compare


def _alone(name: str) -> Callable[..., Any]:
    def operate(self: Remote, *arguments: Any) -> Any:
        return _ask(self, "function", name, list(arguments))

    return operate


def _with(name: str) -> Callable[[Remote, Any], Any]:
    def operate(self: Remote, other: Any) -> Any:
        result = _ask(self, "function" if not name.startswith("__") else "special", name, [other])
        if type(other) is not Remote and type(result) is not Remote:
            raise TypeError(
                f"the code returned an object of its own class '{_known(self)['name']}', and reckoning with it gave a plain "
                "value; where a number is expected, only a number counts"
            )
        return result

    return operate


for _name in ("lt", "le", "gt", "ge"):
    setattr(Remote, f"__{_name}__", _compared(_name))
for _name in ("neg", "pos", "abs", "invert", "round", "reversed"):
    setattr(Remote, f"__{_name}__", _alone(_name))
for _name in ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift", "xor"):
    setattr(Remote, f"__{_name}__", _with(_name))
    setattr(Remote, f"__r{_name}__", _with(f"__r{_name}__"))
for _name, _function in (("and", "and_"), ("or", "or_")):
    setattr(Remote, f"__{_name}__", _with(_function))
    setattr(Remote, f"__r{_name}__", _with(f"__r{_name}__"))


def _ask(thing: Remote, op: str, *arguments: Any) -> Any:
    peer, number, _ = object.__getattribute__(thing, "_remote")
    return peer.ask(op, number, *arguments)


def _number(thing: Remote) -> int:
    number: int = object.__getattribute__(thing, "_remote")[1]
    return number


def _known(thing: Remote) -> dict[str, Any]:
    known: dict[str, Any] = object.__getattribute__(thing, "_remote")[2]
    return known


def _typed(thing: Remote, function: str, kind: type, *arguments: Any) -> Any:
    value = _ask(thing, "function", function, list(arguments))
    if type(value) is not kind:
        raise TypeError(f"{function}() of the code's object gave no {kind.__name__}")
    return value


class Codes:
    """What the tests know of the code's objects, and what the code may do with the tests' own."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.things: dict[int, Any] = {}
        self.classes: dict[int, type[Exception]] = {}
        self.raised: list[BaseException] = []
        peer.answer, peer.describe, peer.foreign, peer.remote = self.answer, self.describe, self.foreign, self.remote
        peer.error_out, peer.error_in = self.error_out, self.error_in

    def remote(self, number: int, known: dict[str, Any]) -> Any:
        """The same object of the code is the same here; an exception class becomes a class that can be caught."""
        if number not in self.things:
            known = {"kind": str(known.get("kind")), "name": str(known.get("name"))[:100], "base": known.get("base")}
            if known["kind"] == "exception":
                self.things[number] = self._exception_class(number, known["name"], builtin_class(known["base"]))
            else:
                self.things[number] = Remote(self.peer, number, known)
        return self.things[number]

    def _exception_class(self, number: int, name: str, base: type[Exception]) -> type[Exception]:
        if number not in self.classes:
            if getattr(__import__("builtins"), name, None) is base:
                self.classes[number] = base
            else:
                self.classes[number] = type(name, (base,), {"__module__": "solution"})
        return self.classes[number]

    def foreign(self, thing: Any) -> int | None:
        """The code's number of one of its objects."""
        if type(thing) is Remote:
            return _number(thing)
        if isinstance(thing, type) and issubclass(thing, Exception):
            return next((number for number, kind in self.classes.items() if kind is thing), None)
        return None

    def error_in(self, said: Any) -> BaseException:
        """The exception that the code has raised: a class of its own is the one that the tests know by its name."""
        name, text, number, attributes, mine = said
        if type(mine) is int and 0 <= mine < len(self.raised):
            return self.raised[mine]
        kind, base = str(text).partition("\n")[0][:100], builtin_class(name)
        own = self._exception_class(int(number), kind, base) if number is not None else base
        error = raised(own, str(text).partition("\n")[2])
        for key, value in dict(attributes).items():
            if key.isidentifier() and not key.startswith("_"):
                error.__dict__[key] = value
        return error

    def error_out(self, error: BaseException) -> list[Any]:
        """What the code is told of an exception in a function of the tests: its class and text, and where to find it again."""
        self.raised.append(error)
        return [builtin_name(type(error)), text_of(error), len(self.raised) - 1]

    @staticmethod
    def describe(thing: Any) -> dict[str, Any] | None:
        """What the code is told of an object of the tests."""
        if isinstance(thing, (int, float, str, bytes, tuple, list, dict, set, frozenset)):
            return None
        told: dict[str, Any] = {"name": str(getattr(thing, "__name__", type(thing).__name__))}
        if getattr(type(thing), "__module__", None) == "tests":
            told["special"] = [
                name for name in _SPECIAL if any(name in vars(kind) for kind in type(thing).__mro__[:-1])
            ]
        return told

    def answer(self, op: str, arguments: list[Any]) -> Any:
        """Call a function that the code was given, or read an attribute of an object of the tests' classes. Nothing else: functions
        lead to their globals, and these to what is expected."""
        thing, rest = self.peer.own[arguments[0]], arguments[1:]
        if op == "call" and callable(thing):
            return thing(*rest[0], **rest[1])
        if op == "iter":
            return iter(thing)
        if op == "next" and hasattr(type(thing), "__next__"):
            return next(thing)
        if getattr(type(thing), "__module__", None) == "tests" and not isinstance(thing, type):
            if op == "special":
                return getattr(type(thing), rest[0])(thing, *rest[1]) if rest[0] in _SPECIAL else NotImplemented
            if op == "get" and not rest[0].startswith("_"):
                return getattr(thing, rest[0])
            if op == "set" and not rest[0].startswith("_"):
                return setattr(thing, rest[0], rest[1])
        raise TypeError(f"the tests' {type(thing).__name__} cannot be used this way")


_SPECIAL = frozenset(
    f"__{name}__"
    for name in ("len", "bool", "str", "repr", "getitem", "setitem", "contains", "eq", "lt", "le", "gt", "ge", "hash")
)
