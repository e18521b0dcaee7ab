"""Credit of step criteria over time: what each step's tokens get in place of the criterion's part (grape.md §6)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from service.domain.scoring.stats import mean
from service.domain.scoring.values import CriterionWeight, ScoredCell, ScoredCompletion, StepCredit, Weighting


def step_credits(
    scores: Sequence[float | None], share: float, centre: float, pooling: Literal["mean", "min"], credit: StepCredit
) -> list[float]:
    """The unscaled advantage of each step's tokens, for a criterion with share v and centre s̄ (0 with baseline `none`).

    `to_go`: v/K·Σ_{k'≥k}(s[k'] − s̄); at the first step that is v·(mean − s̄), the outcome's part, and it never exceeds v.
    `all`: the part everywhere. `deepseek_sum`: without 1/K, so it grows with the number of steps. With pooling `min` the part
    up to and including the first weakest step, 0 after it. K and the sums run over ok steps; a step that failed gets what
    the next one gets. ValueError if none is ok.
    """
    ok = [score for score in scores if score is not None]
    if not ok:
        raise ValueError("no step is ok")
    part = share * ((mean(ok) if pooling == "mean" else min(ok)) - centre)
    if credit == "all":
        return [part] * len(scores)
    if pooling == "min":
        weakest = scores.index(min(ok))
        return [part if k <= weakest else 0.0 for k in range(len(scores))]
    scale = share if credit == "deepseek_sum" else share / len(ok)
    return [scale * math.fsum(s - centre for s in scores[k:] if s is not None) for k in range(len(scores))]


def token_advantages(
    completion: ScoredCompletion,
    criteria: Sequence[CriterionWeight],
    weighting: Mapping[str, Weighting],
    cells: Mapping[str, ScoredCell],
    steps_T: Mapping[str, Sequence[int]],
    *,
    length: int,
    credit: StepCredit,
    centred: bool = True,
) -> list[float]:
    """The advantage of each of `length` tokens of one member.

    `steps_T[key][t]` is the step of token t on step criterion `key`. Without step criteria every token has the completion's
    advantage; with them each token has scale_factor times the sum of the other parts and of its own step's credit.
    `centred` is false with baseline `none`.
    """
    advantage, factor = completion.advantage, completion.scale_factor
    if advantage is None or factor is None:
        return [0.0] * length
    credits: dict[str, list[float]] = {}
    for c in criteria:
        cell = cells.get(c.key)
        if c.step_pooling is None or c.key not in completion.parts or cell is None or not cell.steps:
            continue
        own = weighting[c.key]
        assert own.share is not None
        assert own.mean_score is not None
        centre = own.mean_score if centred else 0.0
        credits[c.key] = step_credits(cell.steps, own.share, centre, c.step_pooling, credit)
    if not credits or factor == 0:
        return [advantage] * length
    rest = [part for key, part in completion.parts.items() if key not in credits]
    return [factor * math.fsum([*rest, *(credits[key][steps_T[key][t]] for key in credits)]) for t in range(length)]
