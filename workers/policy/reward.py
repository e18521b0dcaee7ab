"""Reward models that are trained: a transformer with one scalar head, read after the last token of a completion."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workers.policy import forward
from workers.policy.states import completion_states
from workers.types import Batch, PreferenceBatch

TRAINED_HERE = ("reward_input", "demonstration")
"""An entry in the config.json of reward models that are trained here: they read completions as demonstrations are encoded."""


@dataclass(slots=True)
class RewardPolicy:
    """A sequence-classification model with one label, as the reward-model algorithm uses it."""

    model: Any
    tokenizer: Any
    eos_ids: list[int]
    device: torch.device
    context_length: int | None
    autocast: torch.dtype | None
    budget: int
    is_adapter: bool = False

    @property
    def kind(self) -> Literal["full", "adapter"]:
        """What a checkpoint of it holds."""
        return "adapter" if self.is_adapter else "full"

    @property
    def pad_id(self) -> int:
        """Any id does: masks come from lengths."""
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else self.eos_ids[0]

    def parameters(self) -> Iterable[torch.nn.Parameter]:
        """What is trained: everything, or the adapter with the head."""
        return (p for p in self.model.parameters() if p.requires_grad)

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """The same by name."""
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    @property
    def inner(self) -> Any:
        """The transformers model, without PEFT's wrapper (its adapted layers stay)."""
        return self.model.get_base_model() if self.is_adapter else self.model

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Autocast where the job asks for it."""
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    def microbatches(self, batch: Batch) -> Sequence[Batch]:
        """Pieces of at most `budget` padded tokens; pairs stay together."""
        assert isinstance(batch, PreferenceBatch)
        return list(forward.preference_pieces(batch, self.budget))

    def pair_rewards(self, batch: PreferenceBatch) -> Float[Tensor, " batch"]:
        """The reward of each completion in the order of `completions_B_T`, in float32, with gradient."""
        inner = self.inner
        with self.precision():
            states = completion_states(
                getattr(inner, inner.base_model_prefix),
                batch.prompts_P_T,
                batch.completions_B_T,
                batch.prompt_of_B,
                pad=self.pad_id,
                device=self.device,
            )
            rewards: Float[Tensor, " batch"] = inner.score(states.last).squeeze(-1).float()
        return rewards

    def save(self, folder: Path) -> None:
        """Weights with their head as safetensors, configuration and tokenizer."""
        # PEFT would look the base model up on the hub to learn whether its vocabulary was changed; it never is here.
        extra = {"save_embedding_layers": False} if self.is_adapter else {}
        self.model.save_pretrained(folder, safe_serialization=True, **extra)
        self.tokenizer.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
