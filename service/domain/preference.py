"""Configs of the algorithms that learn from preferences: pairs of a chosen and a rejected completion of one prompt."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from service.domain.base import Value, refuse


class DpoConfig(Value):
    """Direct preference optimisation (arXiv 2305.18290) against the policy that the job starts from.

    `loss`: `sigmoid` (the paper's), `robust` (for labels that are wrong with a known probability), `hinge`, `ipo` and
    `sigmoid_norm` (both on log-probabilities per token). `label_smoothing` is that probability; `beta` how strongly the policy is
    held to the reference.
    """

    data_kind: ClassVar[str] = "preferences"

    type: Literal["dpo"]
    beta: Annotated[float, Field(gt=0, le=1000)] = 0.1
    loss: Literal["sigmoid", "robust", "hinge", "ipo", "sigmoid_norm"] = "sigmoid"
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0

    @model_validator(mode="after")
    def _smoothing_goes_with_sigmoid(self) -> DpoConfig:
        if self.label_smoothing and self.loss in ("hinge", "ipo"):
            refuse((("label_smoothing",), "invalid_option", f"the loss '{self.loss}' takes no label smoothing"))
        return self


class RewardModelConfig(Value):
    """A reward model from preferences (Bradley and Terry 1952): a scalar head on the policy's model.

    `held_out` (a tenth, if absent) is the share of pairs that is never trained on: loss and accuracy are measured there, at step 0,
    every `evaluate_every_steps` and at the end, and the mean and deviation of rewards that turn the model's output into a score. A
    job with `evaluation.preferences` measures on those instead, as often as `evaluation` says, and trains on all of its own pairs.
    `centring` weighs (r_chosen + r_rejected)² (arXiv 2312.09244). `use_margins`: a row's margin is by how much its chosen completion
    must win.
    """

    data_kind: ClassVar[str] = "preferences"

    type: Literal["reward_model"]
    centring: Annotated[float, Field(ge=0, le=10)] = 0.0
    use_margins: bool = True
    held_out: Annotated[float, Field(gt=0, le=0.5)] | None = None
    evaluate_every_steps: Annotated[int, Field(ge=1)] | None = None
