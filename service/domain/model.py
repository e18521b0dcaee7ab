"""Registered models: what a reward model must be, and the constants that turn its outputs into scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from service.domain.base import Value

ModelKind = Literal["policy", "reward"]


class Normalisation(Value):
    """A reward model's outputs x have this mean and standard deviation; its score is sigmoid((x − mean)/std) (grape.md §2)."""

    mean: Annotated[float, Field(ge=-1e9, le=1e9)]
    std: Annotated[float, Field(gt=0, le=1e9)]


UNNORMALISED = Normalisation(mean=0.0, std=1.0)
"""What stands in for constants that nobody has given."""

UNNORMALISED_WARNING = (
    "no normalisation is known, so mean 0 and std 1 are taken; give the mean and the standard deviation of the model's outputs "
    "on typical answers, or most scores may be close to 0 or 1"
)


def reward_problem(config: Mapping[str, Any]) -> str | None:
    """What keeps a model with this config.json from being a reward model; null if nothing does."""
    architectures = config.get("architectures") or []
    if not any(isinstance(name, str) and name.endswith("ForSequenceClassification") for name in architectures):
        said = ", ".join(str(name) for name in architectures) or "none"
        return f"a reward model is a sequence classifier (…ForSequenceClassification), and config.json says {said}"
    labels = (
        config.get("num_labels") or len(config.get("id2label") or {}) or 2
    )  # transformers leaves the default of 2 out
    if labels != 1:
        return f"a reward model has one output, and this one has {labels} (num_labels in config.json)"
    return None
