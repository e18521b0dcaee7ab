"""Composites: a formula over the findings of named graders."""

from __future__ import annotations

import math
from collections.abc import Mapping

from service.domain.formula import parse_formula

ROUNDING = 1e-9
"""A weighted sum of ones may end a rounding above 1; what is further out is a wrong formula."""


class NoScore(ValueError):
    """The formula has no value in [0, 1] at these scores; the message says which."""


def combine(formula: str, scores: Mapping[str, float]) -> float:
    """The formula's value at these scores. Raises `NoScore` for a division by zero, NaN, or a value outside [0, 1]."""
    try:
        value = float(parse_formula(formula).evaluate(scores))
    except (ArithmeticError, ValueError) as error:
        raise NoScore(f"the formula has no value at {shown(scores)}: {error}") from None
    if not math.isfinite(value) or not -ROUNDING <= value <= 1 + ROUNDING:
        raise NoScore(f"the formula gives {value:g} at {shown(scores)}, which is not in [0, 1]")
    return min(max(value, 0.0), 1.0)


def shown(scores: Mapping[str, float]) -> str:
    """`a = 1, b = 0.25`, for people."""
    return ", ".join(f"{name} = {scores[name]:.6g}" for name in sorted(scores))
