"""Reward models: a sequence classifier with one output x for prompt and completion; the score is sigmoid((x − m)/d) (grape.md §2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from service.domain.job_state import JobFailure
from service.domain.model import Normalisation
from workers.graders.local.shelf import Shelf
from workers.graders.models import GraderFault
from workers.policy.forward import pad_right, positions
from workers.policy.loading import ModelFiles, pick_autocast, pick_device, quiet_loading
from workers.policy.reward import TRAINED_HERE
from workers.policy.tokenization import TokenizationError, encode_scored, eos_ids_of

BUDGET_TOKENS = 16_384
"""Padded tokens that go through the model at once."""


@dataclass(slots=True)
class RewardModel:
    """A loaded reward model."""

    model: Any
    tokenizer: Any
    device: torch.device
    context_length: int | None
    as_demonstration: bool
    budget: int = BUDGET_TOKENS

    @property
    def bytes(self) -> int:
        """What its weights take."""
        return sum(p.numel() * p.element_size() for p in self.model.parameters())

    def encode(self, prompt: Mapping[str, Any], text: str) -> list[int]:
        """The ids that it reads for a completion. Raises `TokenizationError`."""
        eos_ids = eos_ids_of(self.model, self.tokenizer)
        return encode_scored(self.tokenizer, prompt, text, eos_ids, as_demonstration=self.as_demonstration)

    def outputs(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """x for each row of ids. Rows of similar length go together; padding changes nothing beyond rounding."""
        order = sorted(range(len(rows)), key=lambda k: (-len(rows[k]), k))
        found = [0.0] * len(rows)
        start = 0
        while start < len(order):
            longest = len(rows[order[start]])
            piece = order[start : start + max(1, self.budget // longest)]
            for k, x in zip(piece, self._forward([rows[k] for k in piece]).tolist(), strict=True):
                found[k] = x
            start += len(piece)
        return found

    @torch.inference_mode()
    def _forward(self, rows: Sequence[Sequence[int]]) -> Float[Tensor, " batch"]:
        """x of rows in one padded batch.

        Padding stands to the right whatever the tokenizer says, and lengths say where a row ends: transformers looks for the
        last id that is not the pad id, and that is the wrong place where the pad id is the end token too.
        """
        ids, mask = pad_right(rows, 0, self.device)
        autocast = pick_autocast("auto", self.device)
        with torch.autocast(self.device.type, dtype=autocast, enabled=autocast is not None):
            hidden = self.model.base_model(
                input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False
            ).last_hidden_state
            last = mask.sum(-1) - 1
            logits = self.model.score(hidden[torch.arange(len(rows), device=self.device), last])
        outputs: Tensor = logits[:, 0].float()
        return outputs


def load_reward_model(files: ModelFiles, device: torch.device) -> RewardModel:
    """Verify the files and load them in float32; an adapter is merged into its base.

    Raises `JobFailure`: `model_changed`, or `model_invalid` with the reason.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    files.verify()
    weights = files.base or files
    try:
        with quiet_loading():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                weights.folder,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                **({"num_labels": 1} if files.base is not None else {}),
            )
        if files.base is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, files.folder).merge_and_unload()
        tokenizer = AutoTokenizer.from_pretrained(files.folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises whatever its readers raise; to the user it is one thing
        raise JobFailure(
            "model_invalid", f"model {files.id} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if files.base is None and info["missing_keys"]:
        # transformers fills them with random numbers, so that a model without a head would score at random.
        missing = ", ".join(sorted(info["missing_keys"])[:5])
        raise JobFailure("model_invalid", f"model {files.id} has no weights for {missing}")
    if model.config.num_labels != 1:
        raise JobFailure(
            "model_invalid", f"model {files.id} has {model.config.num_labels} outputs; a reward model has one"
        )
    if not isinstance(getattr(model, "score", None), torch.nn.Linear):
        kind = type(model).__name__
        raise JobFailure(
            "model_invalid", f"model {files.id} is a {kind}; reward models are decoders with a linear head 'score'"
        )
    name, value = TRAINED_HERE
    return RewardModel(
        model=model.to(device).eval().requires_grad_(False),
        tokenizer=tokenizer,
        device=device,
        context_length=getattr(model.config.get_text_config(), "max_position_embeddings", None),
        as_demonstration=files.base is not None or getattr(model.config, name, None) == value,
    )


@dataclass(slots=True)
class RewardScorer:
    """A `Scorer`: loads the models that are asked for, and keeps them on a shelf."""

    files: Callable[[str], ModelFiles]
    constants: Callable[[str], Normalisation]
    shelf: Shelf
    device: torch.device | None = None

    def load(self, model_id: str) -> RewardModel:
        """The model; raises `JobFailure` if it cannot be had."""
        files = self.files(model_id)
        size = sum(file.bytes for file in files.files)
        return self.shelf.take(
            f"reward/{files.hash}", size, lambda: load_reward_model(files, self.device or pick_device())
        )

    def score(self, model_id: str, prompt: Mapping[str, Any], texts: Sequence[str]) -> list[float | GraderFault]:
        """The scores of completions of one prompt, or why there is none."""
        try:
            model = self.load(model_id)
        except JobFailure as failure:
            return [GraderFault("infra_error", failure.message)] * len(texts)
        found: list[float | GraderFault] = [GraderFault("infra_error", "not scored")] * len(texts)
        rows: dict[int, list[int]] = {}
        for k, text in enumerate(texts):
            try:
                ids = model.encode(prompt, text)
            except TokenizationError as error:
                found[k] = GraderFault("infra_error", str(error))
                continue
            if model.context_length is not None and len(ids) > model.context_length:
                reason = f"{len(ids)} tokens do not fit into the reward model's context of {model.context_length}"
                found[k] = GraderFault("judge_truncated", reason)
            else:
                rows[k] = ids
        constants = self.constants(model_id)
        for k, x in zip(rows, model.outputs(list(rows.values())), strict=True):
            found[k] = normalised(x, constants)
        return found


def normalised(x: float, constants: Normalisation) -> float | GraderFault:
    """sigmoid((x − mean)/std), without overflow; a fault for NaN and infinities."""
    if not math.isfinite(x):
        return GraderFault("invalid_score", f"the reward model's output is {x}")
    z = (x - constants.mean) / constants.std
    return 1.0 / (1.0 + math.exp(-z)) if z >= 0 else math.exp(z) / (1.0 + math.exp(z))
