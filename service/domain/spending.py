"""What judges are asked and what that costs: prices, bounds, and totals.

A *call* is one question that is put to a judge: one request to an endpoint (every attempt counts, those that fail too), or one
question to a judge that is a registered model. Known cells and reward models take no call.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from service.domain.base import Value

Usd = Annotated[float, Field(gt=0, le=1e9)]
PerMtok = Annotated[float, Field(ge=0, le=1e6)]


class Price(Value):
    """What an endpoint charges, in US dollars for a million tokens."""

    input_per_mtok: PerMtok
    output_per_mtok: PerMtok

    def of(self, tokens_in: int, tokens_out: int) -> float:
        """US dollars."""
        return (tokens_in * self.input_per_mtok + tokens_out * self.output_per_mtok) / 1e6


class JudgeBudget(Value):
    """The most that a job or a grading may take of its judges, all of them together; null is no limit.

    A job that has used it up pauses (`budget_exhausted`) and goes on once it is resumed with a higher one; a grading gives cells
    of status `budget`. `judge_calls` is never exceeded. `judge_cost_usd` needs a price on every judge with an endpoint; before a
    call the most that it may cost is set aside, so what is spent ends below the limit by less than one such call.
    """

    judge_calls: Annotated[int, Field(ge=1, le=10**12)] | None = None
    judge_cost_usd: Usd | None = None

    @property
    def bounded(self) -> bool:
        """Whether there is a limit."""
        return self.judge_calls is not None or self.judge_cost_usd is not None


class Spent(BaseModel):
    """What was taken so far: by a job, by a grading, or of a judge by everybody.

    `estimated_calls`: those of the calls whose tokens the endpoint did not tell. The cost is null as long as no call had a price.
    """

    judge_calls: int = 0
    judge_tokens_in: int = 0
    judge_tokens_out: int = 0
    judge_cost_usd: float | None = None
    estimated_calls: int = 0
