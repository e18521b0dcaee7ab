"""How the learning rate moves over a job's optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from service.domain.base import Loc, Value

DECAY_SHARE = 0.1
"""Without `decay_steps`, `wsd` comes down over this share of all steps."""
TIMESCALE = 10_000
"""Without a warm-up, `inverse_sqrt` has fallen to the square root of a half after so many steps (transformers' own default)."""


class ScheduleSpec(Value):
    """A linear warm-up over `warmup_steps`, then `schedule`; all but `constant` and `inverse_sqrt` end at `min_rate` of the full rate.

    `linear` and `cosine` come down over all other steps, `polynomial` as the remaining share to the `power`. `wsd` (warm-up, stable,
    decay) stays up and comes down over the last `decay_steps` (a tenth of all, if absent) in `decay_shape`. `inverse_sqrt` falls as
    √(warmup_steps / step).
    """

    schedule: Literal["constant", "linear", "cosine", "polynomial", "inverse_sqrt", "wsd"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    min_rate: Annotated[float, Field(ge=0, lt=1)] = 0.0
    power: Annotated[float, Field(gt=0, le=100)] | None = None
    decay_steps: Annotated[int, Field(ge=1)] | None = None
    decay_shape: Literal["linear", "cosine", "one_minus_sqrt"] | None = None

    def rate_share(self, step: int, steps: int) -> float:
        """The share of the full rate at optimizer step `step` (0 first) of `steps`; no step of a warm-up has none."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "inverse_sqrt":
            timescale = self.warmup_steps or TIMESCALE
            return math.sqrt(timescale / (step + timescale - self.warmup_steps))
        if self.schedule == "wsd":
            count = self.decay_steps or max(1, round(DECAY_SHARE * steps))
            left = _left(self.decay_shape or "linear", max(0.0, (step - (steps - count)) / count))
        elif self.schedule == "cosine":
            left = _left("cosine", self._done(step, steps))
        else:
            left = (1 - self._done(step, steps)) ** (self.power or 1.0)
        return left * (1 - self.min_rate) + self.min_rate

    def _done(self, step: int, steps: int) -> float:
        return (step - self.warmup_steps) / max(steps - self.warmup_steps, 1)

    def problems(self, steps: int | None) -> Iterator[tuple[Loc, str, str]]:
        """What does not go together, below `/training`."""
        if steps is not None and self.warmup_steps >= steps > 1:
            message = f"a warm-up of {self.warmup_steps} steps leaves none of the {steps} at the full rate"
            yield ("warmup_steps",), "invalid_option", message
        if steps is not None and self.warmup_steps + (self.decay_steps or 0) > steps:
            message = f"a warm-up of {self.warmup_steps} and {self.decay_steps} steps of decay are more than the {steps} steps"
            yield ("decay_steps",), "invalid_option", message
        if self.min_rate and self.schedule in ("constant", "inverse_sqrt"):
            message = f"the schedule '{self.schedule}' comes down to no end; 'min_rate' is for linear, cosine, polynomial and wsd"
            yield ("min_rate",), "invalid_option", message
        if self.power is not None and self.schedule != "polynomial":
            yield ("power",), "invalid_option", "'power' is for the schedule 'polynomial'"
        for name in ("decay_steps", "decay_shape"):
            if getattr(self, name) is not None and self.schedule != "wsd":
                yield (name,), "invalid_option", f"'{name}' is for the schedule 'wsd' (warm-up, stable, decay)"


def _left(shape: str, done: float) -> float:
    if shape == "cosine":
        return (1 + math.cos(math.pi * done)) / 2
    return 1 - math.sqrt(done) if shape == "one_minus_sqrt" else 1 - done
