"""Agreement of two raters on classes: which level, or whether it was met."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any, Literal

Pairs = Sequence[tuple[Hashable, Hashable]]
"""What the first and the second rater said of each unit."""


def observed_agreement(pairs: Pairs) -> float | None:
    """The share of units on which both said the same; null for no units."""
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else None


def cohen_kappa(pairs: Pairs) -> float | None:
    """(p_o − p_e)/(1 − p_e) (Cohen 1960); null for no units, and where both always said the same one thing."""
    return _kappa(pairs, lambda a, b: float(a != b))


def weighted_kappa(
    pairs: Sequence[tuple[Any, Any]],
    order: Sequence[Any] | None = None,
    weights: Literal["linear", "quadratic"] = "quadratic",
) -> float | None:
    """Cohen's kappa with disagreements that count |i − j| or (i − j)², i and j being places in `order` (Cohen 1968).

    Without `order`, the values that occur stand in their own order, as in scikit-learn. ValueError for a value outside `order`.
    """
    places = {value: place for place, value in enumerate(order or sorted({value for pair in pairs for value in pair}))}
    unknown = [value for pair in pairs for value in pair if value not in places]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not among the values that were given in order")
    power = 1 if weights == "linear" else 2
    return _kappa(pairs, lambda a, b: float(abs(places[a] - places[b]) ** power))


def _kappa(pairs: Pairs, distance: Any) -> float | None:
    if not pairs:
        return None
    n = len(pairs)
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    observed = math.fsum(count * distance(a, b) for (a, b), count in Counter(pairs).items()) / n
    expected = math.fsum(x * y * distance(a, b) for a, x in first.items() for b, y in second.items()) / (n * n)
    return 1 - observed / expected if expected > 0 else None


def balanced_f1(pairs: Pairs) -> float | None:
    """The mean over classes of F1, the first rater being right: every class counts the same, however rare (macro F1).

    Over two classes this is HealthBench's agreement with physicians. The classes are those that occur on either side; null for
    no units, and for a single class: nobody has told anything apart.
    """
    classes = {value for pair in pairs for value in pair}
    if len(classes) < 2:
        return None
    first, second = Counter(a for a, _ in pairs), Counter(b for _, b in pairs)
    both = Counter(a for a, b in pairs if a == b)
    return math.fsum(2 * both[c] / (first[c] + second[c]) for c in classes) / len(classes)
