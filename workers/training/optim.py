"""AdamW and its schedule. The learning rate is a function of the step, so a resumed job needs no scheduler state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from service.domain.job import TrainingSpec
from workers.training.sharding import split_like, whole

STATE = ("step", "exp_avg", "exp_avg_sq")


def build_optimizer(policy: Any, spec: TrainingSpec, value_learning_rate: float | None = None) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, in their order of definition; a value model may have a rate of its own."""
    rate = spec.learning_rate or 0.0  # an algorithm that takes none moves the weights itself
    named = list(policy.named_parameters())
    own = [parameter for name, parameter in named if not name.startswith("value.")]
    groups: list[dict[str, Any]] = [{"params": own}]
    value = [parameter for name, parameter in named if name.startswith("value.")]
    if value:
        # The schedule is one; the value model's rate keeps its ratio to the policy's.
        groups.append({"params": value, "factor": (value_learning_rate or rate) / rate})
    # One pass over memory in place of a dozen, where tensors are whole.
    fused = all(p.device.type == "cpu" and not hasattr(p, "full_tensor") for _, p in named)
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.999), weight_decay=spec.weight_decay, fused=fused)


def learning_rate(spec: TrainingSpec, step: int, steps: int) -> float:
    """The rate of optimizer step `step` (0 first) of `steps`; 0 for algorithms that take none."""
    return 0.0 if spec.learning_rate is None else spec.learning_rate * spec.rate_share(step, steps)


def optimizer_tensors(optimizer: torch.optim.Optimizer, policy: Any) -> dict[str, torch.Tensor]:
    """The moments by parameter name, on the CPU; empty before the first step. Split ones are gathered: every process has to ask."""
    tensors = {}
    for name, parameter in policy.named_parameters():
        state = optimizer.state.get(parameter, {})
        for kind in STATE:
            if kind in state:
                tensors[f"{kind}.{name}"] = whole(state[kind].detach()).cpu().contiguous()
    return tensors


def put_optimizer_tensors(optimizer: torch.optim.Optimizer, policy: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Put such moments back; a parameter without any is as before its first step. The tensors are copied."""
    for name, parameter in policy.named_parameters():
        found = {kind: tensors[f"{kind}.{name}"].clone() for kind in STATE if f"{kind}.{name}" in tensors}
        if found:
            optimizer.state[parameter] = {
                kind: value if kind == "step" else split_like(value, parameter) for kind, value in found.items()
            }
        else:
            optimizer.state.pop(parameter, None)


def save_optimizer(optimizer: torch.optim.Optimizer, policy: Any, path: Path) -> None:
    """The moments as safetensors, whole: any number of processes can go on from them."""
    gathered = getattr(policy, "moments", None)  # of a policy that is split over processes
    save_file(gathered(optimizer) if gathered is not None else optimizer_tensors(optimizer, policy), path)


def load_optimizer(optimizer: torch.optim.Optimizer, policy: Any, path: Path) -> None:
    """Put saved moments back."""
    put_optimizer_tensors(optimizer, policy, load_file(path))
