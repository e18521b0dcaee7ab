"""Where a criterion is graded. The rule, once:

- *here*, with whoever has the text: verifiers, and composites of verifiers;
- reward models, and composites that use them, also here where somebody has loaded them (a training child has), else on the
  queue of local models;
- code in a sandbox, and judges behind an address, on the queue of grading workers; judges that are registered models on the
  queue of local models.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from service.domain.grader import JudgeGrader, reward_models_of, runs_code
from service.domain.rubric import Criterion

GRADING = "grading"
GRADING_LOCAL = "grading_local"


@dataclass(frozen=True, slots=True)
class Places:
    """The criteria that are graded here, and those that are asked for, by queue; in the rubric's order."""

    here: list[Criterion] = field(default_factory=list)
    asked: dict[str, list[Criterion]] = field(default_factory=dict)


def places(criteria: Sequence[Criterion], *, local_judges: Collection[str], models_here: bool) -> Places:
    """Sort criteria by where they are graded. `local_judges` are the ids of judges that are registered models."""
    found = Places()
    for criterion in criteria:
        if isinstance(criterion.grader, JudgeGrader):
            queue = GRADING_LOCAL if criterion.grader.judge in local_judges else GRADING
            found.asked.setdefault(queue, []).append(criterion)
        elif runs_code(criterion.grader):
            found.asked.setdefault(GRADING, []).append(criterion)
        elif models_here or not reward_models_of(criterion.grader):
            found.here.append(criterion)
        else:
            found.asked.setdefault(GRADING_LOCAL, []).append(criterion)
    return found
