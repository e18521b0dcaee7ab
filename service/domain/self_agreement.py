"""How far a judge agrees with itself: votes on the same completion and criterion, compared with each other.

At temperature 0 too, judges answer the same question in different ways (reference/rubrics.md §5.2 #16); the marks below are §6.5's.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from pydantic import BaseModel

from service.domain.agreement import Level, bootstrap, krippendorff_alpha

Scale = Literal["boolean", "nominal", "ordinal", "unit"]

LEVELS: dict[Scale, Level] = {"boolean": "nominal", "nominal": "nominal", "ordinal": "ordinal", "unit": "interval"}

NEAR = 0.1
"""Two numbers of a unit scale agree if they are no further apart."""

STEADY = 0.9
"""Below this self-agreement more votes are worth their price."""

UNRELIABLE, TENTATIVE = 0.667, 0.8
"""Krippendorff's customary marks for alpha."""

FLIPPING = 0.2
"""A cell flips where more than this share of its pairs of votes disagree."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The votes on one completion, or one step of it, on one criterion: their scores, and how many could not be read.

    `group`: the completion, which is what is resampled.
    """

    group: Hashable
    scores: tuple[float, ...]
    failed: int = 0
    scale: Scale = "boolean"

    @property
    def agreeing(self) -> float:
        """The share of its pairs of votes that agree."""
        return agreeing_share(self.scores, NEAR if self.scale == "unit" else 0.0)


class Advice(BaseModel):
    """What the numbers suggest."""

    code: Literal["unsteady", "unreliable", "tentative"]
    message: str


class Interval(BaseModel):
    """A 95 % bootstrap interval over completions."""

    low: float
    high: float


class SelfAgreement(BaseModel):
    """Of one criterion, or of all together. `agreement`: the mean over cells of the share of pairs of votes that agree.

    `flipping`: the share of cells in which more than a fifth of the pairs disagree. `unanimous`: in which all votes agree.
    `vote_variance`: the mean variance of a single vote. `alpha`: Krippendorff's, chance-corrected; null and `degenerate` where
    the votes never differ from cell to cell, so that there is nothing to tell apart. Cells with fewer than two votes that could be
    read say nothing and are counted in `unread`; `failed_share` is the share of votes that could not be read.
    """

    cells: int
    votes: int
    unread: int
    failed_share: float | None
    agreement: float | None
    interval: Interval | None
    unanimous: float | None
    flipping: float | None
    vote_variance: float | None
    alpha: float | None
    level: Level | None
    degenerate: bool
    advice: list[Advice]


def self_agreement(cells: Sequence[Judged], *, one_criterion: bool = True) -> SelfAgreement:
    """The statistics of these cells. Alpha is one criterion's, on one scale: what differs between criteria is no chance."""
    compared = [cell for cell in cells if len(cell.scores) >= 2]
    read, failed = sum(len(cell.scores) for cell in cells), sum(cell.failed for cell in cells)
    shares = [(cell.group, cell.agreeing) for cell in compared]
    scales = {cell.scale for cell in cells}
    level = LEVELS[next(iter(scales))] if one_criterion and len(scales) == 1 else None
    alpha = krippendorff_alpha([cell.scores for cell in compared], level) if level is not None else None
    by_group: dict[Hashable, tuple[float, int]] = {}
    for group, share in shares:
        total, count = by_group.get(group, (0.0, 0))
        by_group[group] = (total + share, count + 1)
    interval = bootstrap(
        list(by_group.values()), lambda units: sum(total for total, _ in units) / sum(count for _, count in units)
    )
    agreement = _mean([share for _, share in shares])
    return SelfAgreement(
        cells=len(compared),
        votes=sum(len(cell.scores) for cell in compared),
        unread=len(cells) - len(compared),
        failed_share=failed / (read + failed) if read + failed else None,
        agreement=agreement,
        interval=Interval(low=interval.low, high=interval.high) if interval is not None else None,
        unanimous=_mean([float(share == 1.0) for _, share in shares]),
        flipping=_mean([float(1 - share > FLIPPING + 1e-9) for _, share in shares]),
        vote_variance=_mean([_variance(cell.scores) for cell in compared]),
        alpha=alpha,
        level=level,
        degenerate=bool(compared) and level is not None and alpha is None,
        advice=_advice(agreement, alpha),
    )


def agreeing_share(scores: Sequence[float], near: float = 0.0) -> float:
    """Of all pairs of these (two or more), the share that is at most `near` apart."""
    pairs = list(combinations(scores, 2))
    return sum(abs(a - b) <= near + 1e-9 for a, b in pairs) / len(pairs)


def _advice(agreement: float | None, alpha: float | None) -> list[Advice]:
    found = []
    if agreement is not None and agreement < STEADY:
        message = f"two votes agree on {agreement:.0%} of the cells; give it 'votes' of 3 or more"
        found.append(Advice(code="unsteady", message=message))
    if alpha is not None and alpha < UNRELIABLE:
        message = f"alpha {alpha:.2f} is below {UNRELIABLE}: do not train on this criterion before its text says more"
        found.append(Advice(code="unreliable", message=message))
    elif alpha is not None and alpha < TENTATIVE:
        found.append(
            Advice(code="tentative", message=f"alpha {alpha:.2f} is below {TENTATIVE}: draw only tentative conclusions")
        )
    return found


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _variance(scores: Sequence[float]) -> float:
    centre = math.fsum(scores) / len(scores)
    return math.fsum((score - centre) ** 2 for score in scores) / (len(scores) - 1)
