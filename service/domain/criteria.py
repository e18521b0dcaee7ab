"""The criteria of one prompt, in the form that aggregation needs."""

from __future__ import annotations

from collections.abc import Sequence

from service.domain.grader import JudgeGrader
from service.domain.rubric import Criterion
from service.domain.scoring import CriterionWeight


def criterion_weights(criteria: Sequence[Criterion]) -> list[CriterionWeight]:
    """What aggregation needs to know of a rubric."""
    return [
        CriterionWeight(
            key=c.key,
            weight=c.effective_weight,
            judged=isinstance(c.grader, JudgeGrader),
            audit=c.audit,
            default_confidence=c.default_confidence,
        )
        for c in criteria
    ]
