"""Config of rejection sampling: sample, grade, keep the best, imitate them."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints, model_validator

from service.domain.base import Value, refuse
from service.domain.revision import RevisionConfig, refuse_group_use

Share = Annotated[float, Field(ge=0, le=1)]


class StoredSource(Value):
    """The completions of a job or of a grading that has ended, as they are stored."""

    job: Annotated[str, StringConstraints(pattern=r"^job_[0-9a-z]+$")] | None = None
    grading: Annotated[str, StringConstraints(pattern=r"^grd_[0-9a-z]+$")] | None = None
    purpose: Literal["train", "evaluation", "comparison", "revision"] | None = None

    @model_validator(mode="after")
    def _one(self) -> StoredSource:
        if (self.job is None) == (self.grading is None):
            refuse(((), "one_of", "give either 'job' or 'grading'"))
        if self.purpose is not None and self.job is None:
            refuse(
                (("purpose",), "invalid_option", "'purpose' goes with a job, whose completions are of more than one")
            )
        return self


class RejectionSamplingConfig(Value):
    """Rounds of: sample a group per prompt, keep its best completion or all above a threshold, fine-tune on what was kept.

    `stored`: nothing is sampled; the candidates are completions that are there already, whoever wrote them. Those with an equal
    prompt are one group, each text once, and are graded by the job's rubric: what the same judges have said of them is known.

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
    stored: StoredSource | None = None

    @model_validator(mode="after")
    def _threshold_where_needed(self) -> RejectionSamplingConfig:
        refuse_group_use(self.revision)
        if self.select == "threshold" and self.threshold is None:
            refuse((("threshold",), "missing", "select 'threshold' needs the least plain reward that is kept"))
        if self.stored is not None and self.rounds > 1:
            refuse(
                (("rounds",), "invalid_option", "stored completions are the same in every round; leave 'rounds' at 1")
            )
        return self


def round_steps(steps: int, rounds: int) -> list[int]:
    """How many optimizer steps each round has; what cannot be spread evenly goes to the first rounds."""
    whole, rest = divmod(steps, rounds)
    return [whole + (k < rest) for k in range(rounds)]
