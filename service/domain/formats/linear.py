"""Whether a formula is a weighted sum of its names, found by evaluating it over expressions instead of numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from service.domain.formula import Formula


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """constant + Σ coefficient·name. Everything that does not keep it so (products of names, min, comparisons) is a `TypeError`."""

    constant: float
    coefficients: Mapping[str, float]

    def __add__(self, other: Any) -> Linear:
        right = _of(other)
        names = self.coefficients.keys() | right.coefficients.keys()
        sums = {name: self.coefficients.get(name, 0.0) + right.coefficients.get(name, 0.0) for name in names}
        return Linear(self.constant + right.constant, sums)

    def __mul__(self, other: Any) -> Linear:
        factor = float(other)  # a TypeError for a product of two expressions
        return Linear(self.constant * factor, {name: value * factor for name, value in self.coefficients.items()})

    def __truediv__(self, other: Any) -> Linear:
        return self * (1.0 / float(other))

    def __neg__(self) -> Linear:
        return self * -1.0

    def __sub__(self, other: Any) -> Linear:
        return self + (-_of(other))

    def __rsub__(self, other: Any) -> Linear:
        return (-self) + _of(other)

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError("expressions are not compared")

    def __radd__(self, other: Any) -> Linear:
        return self.__add__(other)

    def __rmul__(self, other: Any) -> Linear:
        return self.__mul__(other)

    __hash__ = None  # type: ignore[assignment]


def linear_in(formula: Formula, values: Mapping[str, Linear]) -> Linear | None:
    """The formula as a weighted sum; null if it is none. `values`: what each name stands for."""
    evaluate: Any = formula.evaluate
    try:
        return _of(evaluate(values))
    except (TypeError, ArithmeticError, ValueError):
        return None


def _of(value: Any) -> Linear:
    return value if isinstance(value, Linear) else Linear(float(value), {})
