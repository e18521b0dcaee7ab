"""The pieces of a policy-gradient objective that several algorithms' configs are made of."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from service.domain.base import Value, refuse
from service.domain.revision import RevisionConfig
from service.domain.scoring import StepCredit

NotNegative = Annotated[float, Field(ge=0)]
MeanOver = Literal["token_mean", "sequence_mean", "constant"]


class ObjectiveConfig(Value):
    """The surrogate and the mean that is taken of it. `kind: reinforce` does not clip: −ρ·A, so it takes no clip range.

    `aggregation`: `token_mean` divides by the completion tokens of the whole optimizer step, `sequence_mean` takes the mean
    over completions of their token means, `constant` divides by completions × `max_completion_tokens` (Dr. GRPO).
    `step_credit`: how the part of a step criterion is spread over the tokens of its steps (grape.md §6); `deepseek_sum` is not
    bounded, so padding with trivially good steps pays.
    """

    kind: Literal["clipped", "reinforce"] = "clipped"
    clip_low: Annotated[float, Field(gt=0, lt=1)] = 0.2
    clip_high: Annotated[float, Field(gt=0, le=10)] = 0.28
    ratio: Literal["token", "sequence"] = "token"
    aggregation: Literal["token_mean", "sequence_mean", "constant"] = "token_mean"
    step_credit: StepCredit = "to_go"

    @model_validator(mode="after")
    def _a_range_goes_with_clipping(self) -> ObjectiveConfig:
        for name in ("clip_low", "clip_high"):
            if self.kind == "reinforce" and getattr(self, name) != ObjectiveConfig.model_fields[name].default:
                refuse(((name,), "invalid_option", f"the objective 'reinforce' does not clip; leave '{name}' out"))
        return self


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "gspo": {"objective": {"ratio": "sequence", "aggregation": "sequence_mean", "clip_low": 3e-4, "clip_high": 4e-4}},
    "dapo": {
        "objective": {"ratio": "token", "aggregation": "token_mean", "clip_low": 0.2, "clip_high": 0.28},
        "advantage": {"baseline": "group_mean", "scale": "group_std"},
        "truncated": {"mode": "penalty"},
        "without_signal": {"mode": "resample", "max_resamples": 9},
    },
    "dr_grpo": {
        "objective": {"ratio": "token", "aggregation": "constant", "clip_low": 0.2, "clip_high": 0.2},
        "advantage": {"baseline": "group_mean", "scale": "none"},
    },
}
"""What papers call their variants of GRPO, in our options: GSPO (arXiv 2507.18071), DAPO (2503.14476: clip-higher, token mean,
overlong penalty, dynamic sampling of at most ten draws a step), Dr. GRPO (2503.20783). None has a KL penalty by default. What a
job says itself stands above its preset."""


def with_preset(body: Any) -> Any:
    """A config's body with the fields of its preset filled in where it leaves them open."""
    if not isinstance(body, dict) or body.get("preset") not in PRESETS:
        return body
    filled = dict(body)
    for block, values in PRESETS[body["preset"]].items():
        own = body.get(block, {})
        if isinstance(own, dict) and own.get("mode", values.get("mode")) == values.get("mode"):
            unclipped = own.get("kind") == "reinforce"  # the preset's range is none of its business
            filled[block] = {k: v for k, v in {**values, **own}.items() if k in own or not (unclipped and "clip" in k)}
    return filled


class KlConfig(Value):
    """The divergence KL(policy ‖ reference), in nats per token: β times it is a penalty, and above `max` the job stops.

    β = 0 without `max` loads no reference. `placement`: a term of the `loss`, or taken off the `reward`, where only `k1` is
    unbiased. `unbiased`: the loss's gradient is that of the divergence, by way of the ratio to the sampling policy; without it
    the estimate alone is differentiated, as GRPO was published (`k3`).
    """

    beta: NotNegative = 0.0
    estimator: Literal["k1", "k2", "k3"] = "k3"
    placement: Literal["loss", "reward"] = "loss"
    unbiased: bool = True
    max: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _has_a_gradient(self) -> KlConfig:
        if not self.unbiased and self.placement == "reward":
            refuse(
                (("unbiased",), "invalid_option", "in the reward no gradient is taken of the divergence; leave it out")
            )
        if not self.unbiased and self.estimator == "k1":
            message = "the estimate k1 has a gradient of zero in expectation; leave 'unbiased' on, or take k2 or k3"
            refuse((("unbiased",), "invalid_option", message))
        return self

    @property
    def needs_reference(self) -> bool:
        """Whether anything is compared with the reference."""
        return self.beta > 0 or self.max is not None


class WithoutSignalConfig(Value):
    """What becomes of groups that teach nothing because their rewards do not differ (or for another `signal`).

    `skip`: nothing is run for them, exactly as if it had been. `resample`: they are replaced by groups of the next prompts, up to
    `max_resamples` times in a step (dynamic sampling, DAPO, arXiv 2503.14476, §3.2); what still has no signal then is skipped.
    """

    mode: Literal["skip", "resample"] = "skip"
    max_resamples: Annotated[int, Field(ge=1, le=100)] | None = None

    @model_validator(mode="after")
    def _goes_with_resample(self) -> WithoutSignalConfig:
        if self.mode != "resample" and self.max_resamples is not None:
            refuse((("max_resamples",), "invalid_option", "'max_resamples' goes with mode 'resample'"))
        return self

    @property
    def resamples(self) -> int:
        """How often a step may draw again."""
        return 0 if self.mode == "skip" else self.max_resamples or 3


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
    revision: RevisionConfig | None = None
