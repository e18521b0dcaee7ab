"""The part of `pytest` that tests of one function use: raises, approx, fail, parametrize. The package itself is not in here."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Unsupported(BaseException):
    """The tests want what this sandbox does not have: the author's to change."""


class _Raises:
    def __init__(self, expected: Any, match: str | None) -> None:
        self.expected, self.match = expected, match
        self.value: BaseException | None = None

    @property
    def type(self) -> Any:
        """The class of what was raised."""
        return type(self.value)

    def __enter__(self) -> _Raises:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if error is None:
            raise AssertionError(f"{_named(self.expected)} was not raised")
        if not isinstance(error, self.expected):
            return False
        self.value = error
        if self.match is not None and re.search(self.match, str(error)) is None:
            raise AssertionError(f"{str(error)!r} does not match {self.match!r}")
        return True


def _named(kind: Any) -> str:
    return " or ".join(k.__name__ for k in kind) if isinstance(kind, tuple) else str(getattr(kind, "__name__", kind))


def raises(expected: Any, *call: Any, match: str | None = None, **keywords: Any) -> Any:
    """As a context, or with a function to call."""
    context = _Raises(expected, match)
    if not call:
        return context
    with context:
        call[0](*call[1:], **keywords)
    return context


class _Approx:
    """Equal to numbers within max(rel · |expected|, abs), and to sequences and mappings of such numbers."""

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, expected: Any, rel: float | None, abs_: float | None, nan_ok: bool) -> None:
        self.expected, self.nan_ok = expected, nan_ok
        self.rel = 1e-6 if rel is None and abs_ is None else (rel or 0.0)
        self.abs = 1e-12 if abs_ is None else abs_

    def __repr__(self) -> str:
        return f"approx({self.expected!r})"

    def __eq__(self, actual: Any) -> bool:
        return self._close(self.expected, actual)

    def _close(self, expected: Any, actual: Any) -> bool:
        if isinstance(expected, Mapping):
            return (
                isinstance(actual, Mapping)
                and expected.keys() == actual.keys()
                and all(self._close(expected[key], actual[key]) for key in expected)
            )
        if isinstance(expected, Sequence) and not isinstance(expected, str | bytes):
            return (
                isinstance(actual, Sequence)
                and not isinstance(actual, str | bytes)
                and len(expected) == len(actual)
                and all(self._close(e, a) for e, a in zip(expected, actual, strict=True))
            )
        if isinstance(expected, bool) or not isinstance(expected, int | float | complex):
            return bool(expected == actual)
        if not isinstance(actual, int | float | complex) or isinstance(actual, bool):
            return False
        if expected == actual:
            return True
        if isinstance(expected, float) and math.isnan(expected):
            return self.nan_ok and isinstance(actual, float) and math.isnan(actual)
        size = abs(expected)
        return not math.isinf(size) and abs(expected - actual) <= max(self.rel * size, self.abs)


def approx(expected: Any, rel: float | None = None, abs: float | None = None, nan_ok: bool = False) -> _Approx:
    """A number, or numbers, with a tolerance."""
    return _Approx(expected, rel, abs, nan_ok)


def fail(reason: str = "") -> None:
    """Fail this test."""
    raise AssertionError(reason)


def _parametrize(names: str | Sequence[str], rows: Any, ids: Any = None) -> Callable[[Any], Any]:
    listed = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)

    def decorate(function: Any) -> Any:
        cases = [dict(zip(listed, row if len(listed) > 1 else (row,), strict=True)) for row in rows]
        before = getattr(function, "_cases", [{}])
        function._cases = [{**one, **other} for one in cases for other in before]
        return function

    return decorate


def module() -> types.ModuleType:
    """To be imported as `pytest`."""
    made, mark = types.ModuleType("pytest"), types.SimpleNamespace(parametrize=_parametrize)

    def missing(name: str) -> Any:
        raise Unsupported(f"pytest.{name} is not offered here; raises, approx, fail and mark.parametrize are")

    made.__dict__.update(raises=raises, approx=approx, fail=fail, mark=mark, __getattr__=missing)
    return made
