"""Loading models with a scalar head: reward models, and the value models of PPO."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from service.domain.job import LoraSpec
from service.domain.job_state import JobFailure
from workers.policy.causal import CausalPolicy
from workers.policy.loading import ModelFiles, pick_autocast, pick_budget, pick_device, quiet_loading, transposed_layers
from workers.policy.reward import TRAINED_HERE, RewardPolicy
from workers.policy.tokenization import eos_ids_of
from workers.policy.value_head import SeparateValue, SharedValue


def load_reward_policy(
    files: ModelFiles,
    *,
    adapter: LoraSpec | None,
    precision: str,
    budget: int | None,
    seed: int,
    resume: Path | None = None,
) -> RewardPolicy:
    """The model of a reward-model job: a causal language model gets a fresh head, a reward model keeps its own.

    The head's first values come from the job's seed. With `resume`, trained weights come from a checkpoint of the job.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

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
    setattr(model.config, *TRAINED_HERE)
    if adapter is not None:
        model = _with_adapter(model, adapter, files.id, resume)
    return RewardPolicy(
        model=model.to(device).eval(),  # dropout off: the same text has one reward
        tokenizer=tokenizer,
        eos_ids=eos_ids,
        device=device,
        context_length=getattr(model.config.get_text_config(), "max_position_embeddings", None),
        autocast=pick_autocast(precision, device, model),
        budget=pick_budget(budget, device),
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


def add_value_model(
    policy: CausalPolicy,
    kind: Literal["separate", "shared"],
    files: ModelFiles,
    *,
    adapter: LoraSpec | None,
    precision: str,
    budget: int | None,
    seed: int,
) -> None:
    """Give a policy its value model, as the job starts it; a checkpoint's tensors are put into it afterwards."""
    if kind == "shared":
        size = policy.model.config.get_text_config().hidden_size
        policy.value = SharedValue.fresh(size, policy.device)
        return
    model = load_reward_policy(files, adapter=adapter, precision=precision, budget=budget, seed=seed)
    with torch.no_grad():
        model.inner.score.weight.zero_()  # before it has learned, advantages are plain returns
    policy.value = SeparateValue(model)
