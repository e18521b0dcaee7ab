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
