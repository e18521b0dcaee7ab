"""Configs of the algorithms that train on plain rewards of their own samples: REINFORCE, TRPO, PPO (grape.md §4).

A completion's plain reward is the author's weights alone; a missing cell takes its criterion's mean over earlier steps, and a
completion of which too little is known is left out of every mean and denominator.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from service.domain.base import Value, refuse
from service.domain.objective import KlConfig, MeanOver, ObjectiveConfig, PolicyGradientConfig
from service.domain.revision import refuse_group_use
from service.domain.rubric import Aggregation

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


PLAIN_FIELDS = ("min_coverage", "max_null_share", "prompt_criteria_weight")
"""The fields of `aggregation` that plain rewards know."""


class PlainRewardConfig(PolicyGradientConfig):
    """What the three share. Of `aggregation` only what concerns plain rewards: coverage and nulls."""

    aggregation: Aggregation = Aggregation()

    @model_validator(mode="after")
    def _plain(self) -> PlainRewardConfig:
        refuse_group_use(self.revision)
        given = {name for name, value in self.aggregation if value is not None}
        for name in sorted(given - set(PLAIN_FIELDS)):
            if (name, getattr(self.aggregation, name)) not in (("weighting", "uniform"), ("on_subject_null", "impute")):
                message = "this algorithm trains on plain rewards, which know no confidence; use 'grape' for that"
                refuse((("aggregation", name), "invalid_option", message))
        return self


class ReinforceConfig(PlainRewardConfig):
    """REINFORCE: −A·log π, one step per rollout. With `kl.placement: reward` a completion pays β times its whole divergence.

    `baseline`: `none`, `moving_average` (of earlier steps' rewards, with `baseline_decay`), `leave_one_out` (the mean of the
    group's others, as RLOO; needs groups of at least 2).
    """

    type: Literal["reinforce"]
    baseline: Literal["none", "moving_average", "leave_one_out"] = "moving_average"
    baseline_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9
    mean_over: MeanOver = "token_mean"
    kl: KlConfig = KlConfig()
    entropy_coef: Annotated[float, Field(ge=0, le=10)] = 0.0


class ValueConfig(Value):
    """The value model of PPO: a transformer of its own (`separate`) or a head on the policy's (`shared`).

    `coef` weighs its loss beside the policy's; `learning_rate` null is the policy's; `clip_range` null does not clip.
    """

    model: Literal["separate", "shared"] = "separate"
    coef: Positive = 0.1
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    clip_range: Positive | None = 0.2


class PpoConfig(PlainRewardConfig):
    """Proximal policy optimisation (arXiv 1707.06347) with a value model and generalised advantage estimation.

    The reward stands on the last token; with `kl.placement: reward` every token pays β·KL to the reference on the way.
    """

    type: Literal["ppo"]
    value: ValueConfig = ValueConfig()
    discount: Share = 1.0
    trace: Share = 0.95
    whiten: bool = True
    objective: ObjectiveConfig = ObjectiveConfig(clip_low=0.2, clip_high=0.2)
    kl: KlConfig = KlConfig(beta=0.05, estimator="k1", placement="reward")
    inner_epochs: Annotated[int, Field(ge=1, le=64)] = 4
    minibatches: Annotated[int, Field(ge=1, le=1024)] = 1
    entropy_coef: Annotated[float, Field(ge=0, le=10)] = 0.0

    @model_validator(mode="before")
    @classmethod
    def _own_defaults(cls, body: Any) -> Any:
        """A block that says one thing keeps this algorithm's defaults in the others."""
        if not isinstance(body, dict):
            return body
        filled = dict(body)
        for name in ("objective", "kl"):
            own = body.get(name)
            if isinstance(own, dict):
                default = cls.model_fields[name].default.model_dump()
                filled[name] = own if own.get("kind") == "reinforce" else {**default, **own}
        return filled

    @model_validator(mode="after")
    def _no_step_credit(self) -> PpoConfig:
        if self.objective.step_credit != "to_go":
            message = "ppo gives credit by its value model; 'step_credit' is for grape and grpo"
            refuse((("objective", "step_credit"), "invalid_option", message))
        if self.objective.kind != "clipped":
            message = "ppo clips; use the algorithm type 'reinforce' for a step without a clip"
            refuse((("objective", "kind"), "invalid_option", message))
        return self


class TrpoConfig(PlainRewardConfig):
    """Trust-region policy optimisation (arXiv 1502.05477): a natural-gradient step of at most `max_kl` nats, measured.

    `damping` is added to the Fisher matrix's diagonal; `shrink` and `line_search_steps` bound the search along the step. There is
    no learning rate: the region is the step's size.
    """

    type: Literal["trpo"]
    baseline: Literal["none", "moving_average", "leave_one_out"] = "leave_one_out"
    baseline_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9
    mean_over: MeanOver = "token_mean"
    max_kl: Annotated[float, Field(gt=0, le=1)] = 0.01
    cg_iterations: Annotated[int, Field(ge=1, le=100)] = 10
    damping: Annotated[float, Field(ge=0, le=10)] = 0.01
    line_search_steps: Annotated[int, Field(ge=1, le=50)] = 10
    shrink: Annotated[float, Field(gt=0, lt=1)] = 0.5
