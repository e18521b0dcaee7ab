"""Exceptions across the two processes: by the name of the nearest built-in class, never by an object of the other side."""

from __future__ import annotations

import builtins
from typing import Any

MOST_TEXT = 2000
_NOT_RAISED = (
    "SystemExit",
    "KeyboardInterrupt",
    "GeneratorExit",
    "BaseException",
    "BaseExceptionGroup",
    "ExceptionGroup",
)


def text_of(error: BaseException) -> str:
    """Its message, whatever its `__str__` does; a `KeyError`'s without the quotes that it puts around it again."""
    try:
        if type(error) is KeyError and len(error.args) == 1 and type(error.args[0]) is str:
            return error.args[0][:MOST_TEXT]
        return str.__str__(str(error))[:MOST_TEXT]
    except BaseException:
        return ""


def described(error: BaseException) -> str:
    """`ValueError: …`, for people."""
    text = text_of(error)
    name = type.__getattribute__(type(error), "__name__")
    return f"{name}: {text}" if text else name


def builtin_name(kind: type) -> str:
    """The nearest built-in exception class that may be raised on the other side."""
    for base in kind.__mro__:
        if getattr(builtins, base.__name__, None) is base and base.__name__ not in _NOT_RAISED:
            return base.__name__
    return "Exception"


def builtin_class(name: Any) -> type[Exception]:
    """The class of that name; `Exception` for what is none, or what would end the tests in place of failing one."""
    kind = getattr(builtins, name, None) if isinstance(name, str) else None
    if isinstance(kind, type) and issubclass(kind, Exception) and name not in _NOT_RAISED:
        return kind
    return Exception


def raised(kind: type[Exception], text: str) -> Exception:
    """An exception of this class with this text, also where its constructor wants more than a text."""
    try:
        return kind(text)
    except TypeError:
        error = kind.__new__(kind)
        error.args = (text,)
        return error
