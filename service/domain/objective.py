"""The pieces of a policy-gradient objective that several algorithms' configs are made of."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from service.domain.base import Value, refuse
from service.domain.scoring import StepCredit

NotNegative = Annotated[float, Field(ge=0)]
MeanOver = Literal["token_mean", "sequence_mean", "constant"]


class ObjectiveConfig(Value):
    """The clipped surrogate and the mean that is taken of it.

    `aggregation`: `token_mean` divides by the completion tokens of the whole optimizer step, `sequence_mean` takes the mean
    over completions of their token means, `constant` divides by completions × `max_completion_tokens` (Dr. GRPO).
    `step_credit`: how the part of a step criterion is spread over the tokens of its steps (grape.md §6); `deepseek_sum` is not
    bounded, so padding with trivially good steps pays.
    """

    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    clip_high: Annotated[float, Field(gt=0, le=10)] = 0.28
    ratio: Literal["token", "sequence"] = "token"
    aggregation: Literal["token_mean", "sequence_mean", "constant"] = "token_mean"
    step_credit: StepCredit = "to_go"


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "gspo": {"objective": {"ratio": "sequence", "aggregation": "sequence_mean", "clip_low": 3e-4, "clip_high": 4e-4}},
    "dapo": {"objective": {"ratio": "token", "aggregation": "token_mean", "clip_low": 0.2, "clip_high": 0.28}},
    "dr_grpo": {
        "objective": {"ratio": "token", "aggregation": "constant", "clip_low": 0.2, "clip_high": 0.2},
        "advantage": {"baseline": "group_mean", "scale": "none"},
    },
}
"""What papers call their variants of GRPO, in our options: GSPO (arXiv 2507.18071), the objective of DAPO (2503.14476) without its
dynamic sampling, Dr. GRPO (2503.20783). What a job says itself stands above its preset."""


def with_preset(body: Any) -> Any:
    """A config's body with the fields of its preset filled in where it leaves them open."""
    if not isinstance(body, dict) or body.get("preset") not in PRESETS:
        return body
    filled = dict(body)
    for block, values in PRESETS[body["preset"]].items():
        own = body.get(block, {})
        if isinstance(own, dict):
            filled[block] = {**values, **own}
    return filled


class KlConfig(Value):
    """The penalty β·KL(policy ‖ reference); β = 0 loads no reference. `placement`: a term of the loss, or taken off rewards."""

    beta: NotNegative = 0.0
    estimator: Literal["k1", "k2", "k3"] = "k3"


class RewardKlConfig(KlConfig):
    """The same penalty with a choice of its place: a term of the `loss`, or taken off the `reward` of every token."""

    placement: Literal["loss", "reward"] = "loss"


class TruncatedConfig(Value):
    """What becomes of completions that run into `max_completion_tokens`.

    `keep`: nothing special. `mask`: they are compared with the others, and stand in no sum and no denominator of the loss.
    `penalty`: the last `margin` tokens before the limit cost up to `penalty` of reward, in a straight line (DAPO, arXiv
    2503.14476, equation 13); plain reward does not know of it. `margin` null: a fifth of the limit, as in that paper.
    """

    mode: Literal["keep", "mask", "penalty"] = "keep"
    margin: Annotated[int, Field(ge=1)] | None = None
    penalty: Annotated[float, Field(gt=0, le=10)] = 1.0

    @model_validator(mode="after")
    def _margin_goes_with_penalty(self) -> TruncatedConfig:
        if self.mode != "penalty" and self.margin is not None:
            message = "'margin', the tokens before the limit that cost, goes with mode 'penalty'"
            refuse((("margin",), "invalid_option", message))
        return self

    def margin_below(self, limit: int) -> int:
        """How many tokens before the limit cost."""
        return self.margin if self.margin is not None else max(1, limit // 5)


class ImportanceConfig(Value):
    """Samples that the trainer sees with another probability than the sampler stated (another precision, an older policy).

    `truncated` weighs each token by min(trainer/sampler, cap); `masked` gives tokens whose ratio is not in [1/cap, cap] the weight
    0. A weight multiplies its token's term of the objective, never the divergence from the reference, and changes no denominator.
    """

    mode: Literal["off", "truncated", "masked"] = "off"
    cap: Annotated[float, Field(gt=1, le=100)] = 2.0


class PolicyGradientConfig(Value):
    """What all algorithms share that sample completions and step along a policy gradient."""

    samples: ClassVar[bool] = True

    truncated: TruncatedConfig = TruncatedConfig()
    importance: ImportanceConfig = ImportanceConfig()
