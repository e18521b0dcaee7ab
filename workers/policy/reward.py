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

from service.domain.job import LoraSpec
from service.domain.job_state import JobFailure
from workers.policy import forward
from workers.policy.loading import ModelFiles, pick_autocast, pick_device, quiet_loading, transposed_layers
from workers.policy.states import completion_states
from workers.policy.tokenization import eos_ids_of
from workers.types import Batch, PreferenceBatch


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

    def microbatches(self, batch: Batch) -> Sequence[Batch]:
        """Pieces of at most `budget` padded tokens; pairs stay together."""
        assert isinstance(batch, PreferenceBatch)
        return list(forward.preference_pieces(batch, self.budget))

    def pair_rewards(self, batch: PreferenceBatch) -> Float[Tensor, " batch"]:
        """The reward of each completion in the order of `completions_B_T`, in float32, with gradient."""
        inner = self.model.get_base_model() if self.is_adapter else self.model
        precision = torch.autocast(self.device.type, dtype=self.autocast) if self.autocast else contextlib.nullcontext()
        with precision:
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


def load_reward_policy(
    files: ModelFiles,
    *,
    adapter: LoraSpec | None,
    precision: str,
    budget: int,
    seed: int,
    resume: Path | None = None,
) -> RewardPolicy:
    """The model of a reward-model job: a causal language model gets a fresh head, a reward model keeps its own.

    The head's first values come from the job's seed. With `resume`, trained weights come from a checkpoint of the job.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    files.verify()
    if files.base is not None:
        raise JobFailure(
            "model_invalid",
            f"model {files.id} is an adapter; a reward model starts from a whole model: register a merged one",
        )
    device = pick_device()
    folder = resume if resume is not None and adapter is None else files.folder
    torch.manual_seed(seed)
    try:
        with quiet_loading():  # it would warn of the missing head, which is made here on purpose
            model = AutoModelForSequenceClassification.from_pretrained(
                folder,
                dtype=torch.float32,
                num_labels=1,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
            )
        tokenizer = AutoTokenizer.from_pretrained(files.folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises whatever its readers raise; to the user it is one thing
        raise JobFailure(
            "model_invalid", f"model {files.id} cannot carry a reward head: {type(error).__name__}: {error}"
        ) from error
    if not hasattr(model, "score"):
        raise JobFailure(
            "model_invalid", f"models of the class {type(model).__name__} have no scalar head named 'score'"
        )
    eos_ids = eos_ids_of(model, tokenizer)
    if not eos_ids:
        raise JobFailure("model_invalid", f"model {files.id} has no end-of-sequence token, so no completion could end")
    if model.config.get_text_config().pad_token_id is None:
        # Who loads it later with plain transformers needs one to find the last token of a batch.
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id or eos_ids[0]
    if adapter is not None:
        model = _with_adapter(model, adapter, files.id, resume)
    return RewardPolicy(
        model=model.to(device).eval(),  # dropout off: the same text has one reward
        tokenizer=tokenizer,
        eos_ids=eos_ids,
        device=device,
        context_length=getattr(model.config.get_text_config(), "max_position_embeddings", None),
        autocast=pick_autocast(precision, device),
        budget=budget,
        is_adapter=adapter is not None,
    )


def _with_adapter(model: Any, adapter: LoraSpec, model_id: str, resume: Path | None) -> Any:
    from peft import LoraConfig, PeftModel, get_peft_model

    if resume is not None:
        return PeftModel.from_pretrained(model, resume, is_trainable=True)
    config = LoraConfig(
        r=adapter.r,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=adapter.target_modules,
        task_type="SEQ_CLS",
        modules_to_save=["score"],  # the head is new: it is trained and saved whole
        fan_in_fan_out=transposed_layers(model),
    )
    try:
        wrapped = get_peft_model(model, config)
    except ValueError as error:
        raise JobFailure("model_invalid", f"the adapter does not fit model {model_id}: {error}") from None
    wrapped.peft_config["default"].base_model_name_or_path = model_id
    return wrapped
