"""Value models for PPO: how good the rest of a completion will be, before each of its tokens.

A `separate` one is a transformer of its own with a scalar head (the class of reward models); a `shared` one is a linear head on
the policy's last hidden states, so policy and value train one trunk. Values know no temperature.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workers.policy.reward import RewardPolicy
from workers.policy.states import completion_states
from workers.types import PolicyBatch


@dataclass(slots=True)
class SeparateValue:
    """A transformer of its own."""

    model: RewardPolicy
    shared: bool = False

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """What is trained of it."""
        return self.model.named_parameters()

    def of_batch(self, batch: PolicyBatch, pad: int) -> Float[Tensor, " time"]:
        """V before every completion token, flat, in float32, with gradient."""
        inner = self.model.inner
        with self.model.precision():
            states = completion_states(
                getattr(inner, inner.base_model_prefix),
                batch.prompts_P_T,
                batch.tokens_B_T,
                batch.prompt_of_B,
                pad=pad,
                device=self.model.device,
            )
            values: Float[Tensor, " time"] = inner.score(states.before).squeeze(-1).float()
        return values


@dataclass(slots=True)
class SharedValue:
    """A head on the policy's trunk: `head` maps hidden states to values."""

    head: torch.nn.Linear
    shared: bool = True

    @classmethod
    def fresh(cls, hidden: int, device: torch.device) -> SharedValue:
        """A head that says 0 everywhere: before it has learned, advantages are plain returns."""
        head = torch.nn.Linear(hidden, 1)
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        return cls(head.to(device))

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Weight and bias."""
        return self.head.named_parameters()

    def of_states(self, states: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch"]:
        """V of hidden states, in float32."""
        values: Float[Tensor, "*batch"] = self.head(states.float()).squeeze(-1)
        return values


ValueModel = SeparateValue | SharedValue


def value_tensors(value: ValueModel) -> dict[str, Any]:
    """What a checkpoint keeps of it: the trained tensors by name."""
    return {name: parameter.detach().cpu().contiguous() for name, parameter in value.named_parameters()}


def load_value_tensors(value: ValueModel, tensors: dict[str, Tensor]) -> None:
    """Put them back; every trained tensor must be there."""
    with torch.no_grad():
        for name, parameter in value.named_parameters():
            parameter.copy_(tensors[name].to(parameter.device))
