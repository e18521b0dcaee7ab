"""Config of rejection sampling: sample, grade, keep the best, imitate them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from service.domain.base import Value, refuse
from service.domain.revision import RevisionConfig, refuse_group_use

Share = Annotated[float, Field(ge=0, le=1)]


class RejectionSamplingConfig(Value):
    """Rounds of: sample a group per prompt, keep its best completion or all above a threshold, fine-tune on what was kept.

    Completions are judged by plain reward; those without one (a cell is missing) are never kept. `threshold` is the least plain
    reward (required for `select: threshold`), `floors` the least score on single criteria. `training.steps` optimizer steps are
    spread evenly over the rounds. `prompts_per_round` null: all prompts, each round.
    """

    samples: ClassVar[bool] = True
    batched: ClassVar[bool] = True

    type: Literal["rejection_sampling"]
    select: Literal["best", "threshold"] = "best"
    threshold: Share | None = None
    floors: dict[str, Share] = {}
    rounds: Annotated[int, Field(ge=1, le=1000)] = 1
    prompts_per_round: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    revision: RevisionConfig | None = None

    @model_validator(mode="after")
    def _threshold_where_needed(self) -> RejectionSamplingConfig:
        refuse_group_use(self.revision)
        if self.select == "threshold" and self.threshold is None:
            refuse((("threshold",), "missing", "select 'threshold' needs the least plain reward that is kept"))
        return self


def round_steps(steps: int, rounds: int) -> list[int]:
    """How many optimizer steps each round has; what cannot be spread evenly goes to the first rounds."""
    whole, rest = divmod(steps, rounds)
    return [whole + (k < rest) for k in range(rounds)]
