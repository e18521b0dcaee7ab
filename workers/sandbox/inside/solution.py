"""The process of the completion's code: runs it, and does what the tests' process asks of it. Nothing here is believed."""

from __future__ import annotations

import builtins
import contextlib
import json
import operator
import os
import sys
import types
from collections.abc import Callable
from typing import Any

from workers.sandbox.inside.exceptions import builtin_class, builtin_name, raised, text_of
from workers.sandbox.inside.peer import Peer
from workers.sandbox.inside.wire import Ended, read_all

MODULE = "solution"


class Theirs:
    """Something of the tests' that the code was handed: a function of theirs, an iterator, an object of their classes."""

    def __init__(self, peer: Peer, number: int, known: dict[str, Any]) -> None:
        object.__setattr__(self, "_theirs", (peer, number, known))

    def _ask(self, op: str, *arguments: Any) -> Any:
        peer, number, _ = object.__getattribute__(self, "_theirs")
        return peer.ask(op, number, *arguments)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Have the tests call it."""
        return Theirs._ask(self, "call", list(args), kwargs)

    def __iter__(self) -> Any:
        return Theirs._ask(self, "iter")

    def __next__(self) -> Any:
        return Theirs._ask(self, "next")

    def __getattr__(self, name: str) -> Any:
        known = object.__getattribute__(self, "_theirs")[2]
        if name == "__name__" and "name" in known:
            return known["name"]
        if name.startswith("_"):
            raise AttributeError(name)
        return Theirs._ask(self, "get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        Theirs._ask(self, "set", name, value)


def _operation(name: str) -> Any:
    return lambda self, *arguments: Theirs._ask(self, "special", name, list(arguments))


def _owns(kind: type) -> bool:
    return getattr(kind, "__module__", None) == MODULE


def _describe(thing: Any) -> dict[str, Any] | None:
    """What the tests are told of an object that stays here; None for what may cross by value."""
    kind = type(thing)
    if isinstance(thing, type):
        told: dict[str, Any] = {"kind": "class", "name": thing.__name__}
        if issubclass(thing, BaseException):
            told |= {"kind": "exception", "base": builtin_name(thing)}
        return told
    if isinstance(thing, types.ModuleType):
        return {"kind": "module", "name": thing.__name__}
    if isinstance(thing, (int, float, str, bytes)):
        return None
    if isinstance(thing, (tuple, list, dict, set, frozenset)) and (not _owns(kind) or hasattr(kind, "_fields")):
        return None
    return {"kind": "object", "name": kind.__name__, "callable": callable(thing)}


def _foreign(thing: Any) -> int | None:
    return object.__getattribute__(thing, "_theirs")[1] if isinstance(thing, Theirs) else None


class Solution:
    """The code's module and the tests' wishes."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.module = types.ModuleType(MODULE)
        self.failure: list[Any] | None = None
        self.known: dict[int, Theirs] = {}
        peer.answer, peer.describe, peer.foreign = self.answer, _describe, _foreign
        peer.remote = self.theirs
        peer.error_out, peer.error_in = self.error_out, self.error_in

    def theirs(self, number: int, known: dict[str, Any]) -> Theirs:
        """An object of the tests'; the same one is the same here. Of the special methods it has those that its class has there."""
        if number not in self.known:
            special = {name: _operation(name) for name in known.get("special", ())}
            kind = type(known["name"], (Theirs,), special) if special else Theirs
            self.known[number] = kind(self.peer, number, known)
        return self.known[number]

    def run(self, code: str) -> None:
        """Run the code as a module. How it fails is told with the first answer."""
        self.module.__dict__["__builtins__"] = builtins
        sys.modules[MODULE] = self.module
        try:
            exec(compile(code, f"{MODULE}.py", "exec", dont_inherit=True), self.module.__dict__)  # noqa: S102
        except BaseException as error:
            self.failure = self.error_out(error)[:2]

    def answer(self, op: str, arguments: list[Any]) -> Any:
        """Do it."""
        act: Callable[..., Any] = getattr(self, f"do_{op}")
        return act(*arguments)

    def do_names(self) -> Any:
        """All public names of the code with their values, or how it failed."""
        if self.failure is not None:
            return [self.failure, {}]
        return [None, self._sendable(self.module.__dict__, "__")]

    def _sendable(self, values: dict[str, Any], hidden: str) -> dict[str, Any]:
        """The values that can cross, under names that do not begin with `hidden`."""
        found = {}
        for name, value in list(values.items()):
            if type(name) is str and not name.startswith(hidden):
                with contextlib.suppress(Exception):
                    self.peer.writer().value(value)
                    found[name] = value
        return found

    def do_call(self, number: int, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Call it."""
        return self.peer.own[number](*args, **kwargs)

    def do_get(self, number: int, name: str) -> Any:
        """An attribute."""
        return getattr(self.peer.own[number], name)

    def do_set(self, number: int, name: str, value: Any) -> None:
        """Set an attribute."""
        setattr(self.peer.own[number], name, value)

    def do_del(self, number: int, name: str) -> None:
        """Delete an attribute."""
        delattr(self.peer.own[number], name)

    def do_iter(self, number: int) -> Any:
        """An iterator."""
        return iter(self.peer.own[number])

    def do_next(self, number: int) -> Any:
        """Its next item."""
        return next(self.peer.own[number])

    def do_function(self, number: int, name: str, arguments: list[Any]) -> Any:
        """A built-in function or an operator on it."""
        function = getattr(builtins, name, None) or getattr(operator, name)
        return function(self.peer.own[number], *arguments)

    def do_special(self, number: int, name: str, arguments: list[Any]) -> Any:
        """A special method of its class."""
        thing = self.peer.own[number]
        return getattr(type(thing), name)(thing, *arguments)

    def do_is(self, number: int, kind: int) -> Any:
        """isinstance."""
        return isinstance(self.peer.own[number], self.peer.own[kind])

    def error_out(self, error: BaseException) -> list[Any]:
        """[class, text, number of the class or None, attributes, number of the tests' own exception]."""
        kind = type(error)
        attributes = self._sendable(getattr(error, "__dict__", {}), "_")
        number = self.peer.own.number(kind) if getattr(builtins, kind.__name__, None) is not kind else None
        theirs = error.__dict__.get("_number") if hasattr(error, "__dict__") else None
        return [builtin_name(kind), f"{kind.__name__}\n{text_of(error)}", number, attributes, theirs]

    @staticmethod
    def error_in(said: Any) -> BaseException:
        """An exception of the tests', raised in a function of theirs."""
        error = raised(builtin_class(said[0]), said[1])
        error.__dict__["_number"] = said[2]
        return error


def main(give: int, incoming: int, outgoing: int) -> None:
    """Run the code that `give` brings, then obey."""
    request = json.loads(read_all(give))
    os.close(give)
    solution = Solution(Peer(incoming, outgoing))
    solution.run(request["code"])
    try:
        solution.peer.serve()
    except Ended:
        return
