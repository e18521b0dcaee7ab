"""Loading policies: safetensors only, never remote code, the files checked against their registered hashes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from service.domain.checkpoint import CheckpointFile, file_entry, model_hash
from service.domain.job import LoraSpec
from service.domain.job_state import JobFailure
from workers.policy.causal import CausalPolicy
from workers.policy.tokenization import eos_ids_of


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A registered model on this machine; `base` is set if the folder holds an adapter."""

    id: str
    folder: Path
    files: list[CheckpointFile]
    base: ModelFiles | None = None

    @property
    def hash(self) -> str:
        """The identity of the files, the base's included."""
        own = model_hash(self.files)
        return own if self.base is None else f"{own}+{self.base.hash}"

    def verify(self) -> None:
        """`model_changed` if a file is missing or is not what was registered."""
        for expected in self.files:
            path = self.folder / expected.path
            if not path.is_file():
                raise JobFailure("model_changed", f"model {self.id}: {expected.path} is gone from {self.folder}")
            if file_entry(self.folder, path) != expected:
                raise JobFailure(
                    "model_changed",
                    f"model {self.id}: {expected.path} is not the file that was registered; register the model again",
                )
        if self.base is not None:
            self.base.verify()


def pick_device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


BUDGETS = {"cpu": 1_536, "cuda": 16_384}
"""Tokens that are run at once. A CPU is as fast with few of them as with many, and activations are most of what a step holds."""


def pick_budget(asked: int | None, device: torch.device) -> int:
    """`training.microbatch_tokens`, or what suits the device."""
    return asked if asked is not None else BUDGETS.get(device.type, BUDGETS["cuda"])


BF16_WIDTH = 256
"""Below this hidden size converting costs a CPU more than multiplying saves (`python -m benchmarks.training`)."""


def pick_autocast(precision: str, device: torch.device, model: Any = None) -> torch.dtype | None:
    """`auto`: bf16 on a GPU, and on a CPU that multiplies bf16 natively if the model is not tiny. Weights stay fp32 in every case."""
    if precision == "bf16" or (precision == "auto" and device.type == "cuda"):
        return torch.bfloat16
    wide = model is not None and model.config.get_text_config().hidden_size >= BF16_WIDTH
    if precision == "auto" and device.type == "cpu" and wide and multiplies_bf16():
        return torch.bfloat16
    return None


def multiplies_bf16() -> bool:
    """Whether this processor has instructions for products of bf16 (AVX-512 BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@dataclass(frozen=True, slots=True)
class Reading:
    """How a model reads and writes text, which is known before its weights are loaded."""

    tokenizer: Any
    eos_ids: list[int]
    context_length: int | None


def read_reading(files: ModelFiles) -> Reading:
    """From the tokenizer and the configurations; of an adapter, with those of its base. The files are verified."""
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    files.verify()
    whole = files
    while whole.base is not None:
        whole = whole.base
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.folder, trust_remote_code=False, local_files_only=True)
        config = AutoConfig.from_pretrained(whole.folder, trust_remote_code=False, local_files_only=True)
        generation = GenerationConfig.from_model_config(config)
        if (whole.folder / "generation_config.json").is_file():
            generation = GenerationConfig.from_pretrained(whole.folder, local_files_only=True)
    except Exception as error:  # transformers raises whatever its readers raise; to the user it is one thing
        raise JobFailure(
            "model_invalid", f"model {files.id} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    eos_ids = eos_ids_of(SimpleNamespace(config=config, generation_config=generation), tokenizer)
    if not eos_ids:
        raise JobFailure("model_invalid", f"model {files.id} has no end-of-sequence token, so no completion could end")
    return Reading(tokenizer, eos_ids, getattr(config.get_text_config(), "max_position_embeddings", None))


def load_model(files: ModelFiles, device: torch.device) -> tuple[Any, Any]:
    """A model in float32 with dropout off, and its tokenizer; an adapter is merged into its base."""
    from transformers import AutoTokenizer

    try:
        model = _load_weights(files)
        tokenizer = AutoTokenizer.from_pretrained(files.folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # transformers raises whatever its readers raise; to the user it is one thing
        raise JobFailure(
            "model_invalid", f"model {files.id} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    # `eval` turns dropout off: a ratio or a reference compared under dropout is noise.
    return model.to(device).eval(), tokenizer


def _load_weights(files: ModelFiles) -> Any:
    """The model, or an adapter merged into its base, which may be an adapter itself."""
    if files.base is None:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(
            files.folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
    from peft import PeftModel

    model = PeftModel.from_pretrained(_load_weights(files.base), files.folder).merge_and_unload()
    if hasattr(model, "peft_config"):
        del model.peft_config  # what is merged is no adapter any more
    return model


def load_policy(
    files: ModelFiles,
    *,
    adapter: LoraSpec | None,
    precision: str,
    budget: int | None,
    seed: int,
    reference: bool,
    resume: Path | None = None,
) -> CausalPolicy:
    """The policy of a job, and its frozen reference if the algorithm needs one.

    With `resume`, a checkpoint of the job, the trained weights come from there; the reference is still the model that the
    job started from. The files have been verified (`read_reading`).
    """
    device = pick_device()
    whole_checkpoint = resume is not None and adapter is None
    source = ModelFiles(files.id, resume, []) if whole_checkpoint and resume is not None else files
    model, tokenizer = load_model(source, device)
    eos_ids = eos_ids_of(model, tokenizer)
    if not eos_ids:
        raise JobFailure("model_invalid", f"model {files.id} has no end-of-sequence token, so no completion could end")
    model.requires_grad_(adapter is None)
    if adapter is not None:
        model = (
            _resumed_adapter(model, resume) if resume is not None else _fresh_adapter(model, adapter, seed, files.id)
        )
        model.peft_config["default"].base_model_name_or_path = files.id
    model.config.use_cache = True
    return CausalPolicy(
        model=model.eval(),
        tokenizer=tokenizer,
        eos_ids=eos_ids,
        device=device,
        context_length=getattr(model.config.get_text_config(), "max_position_embeddings", None),
        autocast=pick_autocast(precision, device, model),
        budget=pick_budget(budget, device),
        is_adapter=adapter is not None,
        reference_model=load_model(files, device)[0].requires_grad_(False) if reference and adapter is None else None,
    )


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' report on weights that a checkpoint does not have."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def transposed_layers(model: Any) -> bool:
    """Whether linear layers store their weights transposed, as GPT-2's do: PEFT wants to be told."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in model.modules())


def _fresh_adapter(model: Any, adapter: LoraSpec, seed: int, model_id: str) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=adapter.r,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=adapter.target_modules,
        task_type="CAUSAL_LM",
        fan_in_fan_out=transposed_layers(model),
    )
    torch.manual_seed(seed)  # the adapter's first values come from the job's seed
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise JobFailure("model_invalid", f"the adapter does not fit model {model_id}: {error}") from None


def _resumed_adapter(model: Any, folder: Path) -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(model, folder, is_trainable=True)
