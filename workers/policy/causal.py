"""`CausalPolicy`: a transformers causal language model as algorithms and the sampler use it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from workers.policy import forward, supervised
from workers.policy.generation.sampler import Sample, SamplingOptions, sample_groups
from workers.policy.value_head import SeparateValue, SharedValue, ValueModel
from workers.types import Batch, FlatDistributions, FlatLogprobs, PolicyBatch, PreferenceBatch, SupervisedBatch


@dataclass(slots=True)
class CausalPolicy:
    """The policy, its tokenizer, and the frozen reference if the algorithm needs one.

    With an adapter the reference is the model with the adapter off; otherwise it is `reference_model`, a copy of the policy
    as the job found it. Once it was refreshed it is the policy as it was then: `moved_reference` has its trainable tensors.
    """

    model: Any
    tokenizer: Any
    eos_ids: list[int]
    device: torch.device
    context_length: int | None
    autocast: torch.dtype | None
    budget: int
    is_adapter: bool = False
    reference_model: Any = None
    moved_reference: dict[str, Tensor] = field(default_factory=dict)
    value: ValueModel | None = None
    packs: bool = False
    """Whether demonstrations share rows; only for models that keep them apart (`supervised.keeps_packed_apart`)."""

    @property
    def pad_id(self) -> int:
        """Any id does: masks come from lengths."""
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else self.eos_ids[0]

    def parameters(self) -> Iterable[torch.nn.Parameter]:
        """What is trained: everything, or the adapter; and the value model if there is one."""
        return (p for _, p in self.named_parameters())

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """The same by name; the names are those of the optimizer's saved state."""
        yield from self._trainable()
        if self.value is not None:
            yield from ((f"value.{name}", p) for name, p in self.value.named_parameters())

    def microbatches(self, batch: Batch) -> Sequence[Batch]:
        """Pieces of at most `budget` padded tokens."""
        if isinstance(batch, PolicyBatch):
            return list(forward.policy_pieces(batch, self.budget))
        if isinstance(batch, PreferenceBatch):
            return list(forward.preference_pieces(batch, self.budget))
        return list(supervised.supervised_pieces(batch, self.budget, packed=self.packs))

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast)

    def logprobs(self, batch: PolicyBatch, *, entropy: bool = False, values: bool = False) -> FlatLogprobs:
        """log π of the completions and, if asked for, its entropy and the value before every token, with gradient."""
        shared = self.value if values and isinstance(self.value, SharedValue) else None
        with self._precision():
            flat = forward.policy_logprobs(
                self.model, batch, self.pad_id, self.device, entropy=entropy, value=shared.of_states if shared else None
            )
        return replace(flat, values=self.values(batch)) if values and shared is None else flat

    def values(self, batch: PolicyBatch) -> Float[Tensor, " time"]:
        """The value before every completion token, with gradient; temperature has no part in it."""
        if isinstance(self.value, SeparateValue):
            return self.value.of_batch(batch, self.pad_id)
        found = self.logprobs(batch, values=True).values
        assert found is not None, "the algorithm did not ask for a value model"
        return found

    def distributions(self, batch: PolicyBatch) -> FlatDistributions:
        """The logits of the completions' tokens at the batch's temperature, with gradient."""
        with self._precision():
            return forward.policy_distributions(self.model, batch, self.pad_id, self.device)

    def reference_logprobs(self, batch: PolicyBatch) -> Float[Tensor, " time"]:
        """log π_ref of the completions."""
        with torch.no_grad(), self._precision(), self._reference() as model:
            return forward.policy_logprobs(model, batch, self.pad_id, self.device).logprobs

    @contextlib.contextmanager
    def _reference(self) -> Iterator[Any]:
        if self.is_adapter and self.moved_reference:
            with self._lent(self.moved_reference):
                yield self.model
        elif self.is_adapter:
            with self.model.disable_adapter():
                yield self.model
        else:
            assert self.reference_model is not None, "the algorithm did not ask for a reference"
            yield self.reference_model

    @contextlib.contextmanager
    def _lent(self, tensors: dict[str, Tensor]) -> Iterator[None]:
        """The model with other values in its trainable parameters, for a forward without gradient."""
        own = {name: parameter.data for name, parameter in self._trainable()}
        try:
            for name, parameter in self._trainable():
                parameter.data = tensors[name]
            yield
        finally:
            for name, parameter in self._trainable():
                parameter.data = own[name]

    def _trainable(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    def refresh_reference(self) -> None:
        """From here on the reference is the policy as it is now."""
        self.put_reference({name: p.detach().clone() for name, p in self._trainable()})

    def put_reference(self, tensors: dict[str, Tensor]) -> None:
        """The reference has these values in the trainable parameters."""
        self.moved_reference = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        if not self.is_adapter:
            assert self.reference_model is not None, "the algorithm did not ask for a reference"
            with torch.no_grad():
                for name, parameter in self.reference_model.named_parameters():
                    parameter.copy_(self.moved_reference[name])
            self.moved_reference = {name: p.detach() for name, p in self.reference_model.named_parameters()}

    def supervised_logprobs(self, batch: SupervisedBatch) -> FlatLogprobs:
        """log π of demonstrations, with gradient."""
        with self._precision():
            return supervised.supervised_logprobs(self.model, batch, self.pad_id, self.device, packed=self.packs)

    def pair_logprobs(self, batch: PreferenceBatch) -> FlatLogprobs:
        """log π of chosen and rejected completions, with gradient."""
        with self._precision():
            return forward.pair_logprobs(self.model, batch, self.pad_id, self.device)

    def reference_pair_logprobs(self, batch: PreferenceBatch) -> FlatLogprobs:
        """The same under the policy that the job started from; without an adapter, that is this one before its first step."""
        reference = self._reference() if self.is_adapter else contextlib.nullcontext(self.model)
        with torch.no_grad(), self._precision(), reference as model:
            return forward.pair_logprobs(model, batch, self.pad_id, self.device)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        options: SamplingOptions,
        on_group: Callable[[int, list[Sample]], None],
        check: Callable[[], None],
        share: tuple[int, int] = (0, 1),
    ) -> None:
        """Sample groups with the same weights and the same arithmetic as the update's forward; `share`: only a part of the rows."""
        with self._precision():
            sample_groups(self.model, prompts, options, on_group, device=self.device, check=check, share=share)

    @property
    def kind(self) -> Literal["full", "adapter"]:
        """What a checkpoint of it holds."""
        return "adapter" if self.is_adapter else "full"

    def save(self, folder: Path) -> None:
        """Weights as safetensors, configuration and tokenizer: what `from_pretrained` (or PEFT) reads."""
        # PEFT would look the base model up on the hub to learn whether its vocabulary was changed; it never is here.
        extra = {"save_embedding_layers": False} if self.is_adapter else {}
        self.model.save_pretrained(folder, safe_serialization=True, **extra)
        self.tokenizer.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card, full of placeholders
