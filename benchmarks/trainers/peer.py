"""TRL's side: its own trainers in their own loop, stopped before every optimizer step until a step is asked for.

Timed is what lies between `on_step_begin` and `on_step_end`: rollout and rewards where there are any, forward, backward, clipping,
optimizer. Collation of the next batch and logging are outside.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LogitsProcessor,
    TrainerCallback,
)
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)

from benchmarks.trainers.sizes import EOS, Data, Sizes, words

Step = dict[str, float]
TRAINERS: dict[str, tuple[type, type]] = {
    "sft": (SFTTrainer, SFTConfig),
    "dpo": (DPOTrainer, DPOConfig),
    "reward_model": (RewardTrainer, RewardConfig),
    "grpo": (GRPOTrainer, GRPOConfig),
}


class EndsAt(LogitsProcessor):
    """Row b emits the end token as its n_b-th token and not before."""

    def __init__(self, lengths: list[int], prompt: int) -> None:
        self.lengths, self.prompt = torch.tensor(lengths), prompt

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores with the end token ruled out, or alone."""
        ends = self.lengths == input_ids.shape[1] - self.prompt + 1
        scores[:, EOS] = -torch.inf
        if bool(ends.any()):
            scores[ends] = -torch.inf
            scores[ends, EOS] = 0.0
        return scores


def dataset_of(kind: str, data: Data) -> Dataset:
    """The data in the form that each trainer takes."""
    if kind == "grpo":
        return Dataset.from_list([{"prompt": words(tokens)} for tokens in data.prompts()])
    if kind == "sft":
        rows = data.demonstrations()
        return Dataset.from_list(
            [{"input_ids": p + c, "completion_mask": [0] * len(p) + [1] * len(c)} for p, c in rows]
        )
    if kind == "dpo":
        return Dataset.from_list(
            [{"prompt": words(p), "chosen": words(c), "rejected": words(r)} for p, c, r in data.pairs()]
        )
    return Dataset.from_list([{"chosen_ids": p + c, "rejected_ids": p + r} for p, c, r in data.pairs()])


def arguments(kind: str, sizes: Sizes, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    """TRL's options: its defaults but for what the row needs, or the tuned ones that a contender names."""
    given: dict[str, Any] = {
        "output_dir": str(folder / "trl"), "use_cpu": True, "max_steps": 1_000_000, "learning_rate": 1e-6,
        "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1_000_000,
        "dataloader_pin_memory": False, "lr_scheduler_type": "constant",
    }  # fmt: skip
    whole = {"sft": sizes.rows, "grpo": sizes.prompts * sizes.group}.get(kind, sizes.pairs)
    parts = options.get("parts", max(1, whole // 8))  # micro-batches of 8 are the trainer's own default
    given.update(per_device_train_batch_size=whole // parts, gradient_accumulation_steps=parts)
    if kind == "sft":
        given["completion_only_loss"] = True
    if kind == "grpo":
        given.update(
            num_generations=sizes.group, max_completion_length=sizes.completion_tokens, shuffle_dataset=False, beta=0.0,
        )  # fmt: skip
    for name, value in options.items():
        if name not in ("parts", "half", "given", "known", "packs"):
            given[name] = value
    if options.get("packs"):  # how many tokens a pack has, in place of padding
        given.update(
            packing=True, max_length=options["packs"], per_device_train_batch_size=1, gradient_accumulation_steps=1
        )
    if options.get("known"):
        given["precompute_ref_log_probs"] = True
    return given


def run(
    kind: str, sizes: Sizes, data: Data, folder: Path, *, options: dict[str, Any], ask: Callable[[Step], bool]
) -> None:
    """Train for as long as `ask(what the last step did)` says so; the first call, with nothing, says that all is loaded."""
    trainer_type, config_type = TRAINERS[kind]
    seen: Step = {}
    state = {"step": 0, "started": 0.0}

    class Gate(TrainerCallback):
        def on_step_begin(self, args: Any, state_: Any, control: Any, **_: Any) -> None:
            if not ask(dict(seen)):
                control.should_training_stop = True
                raise SystemExit
            seen.clear()
            state["started"] = time.perf_counter()

        def on_step_end(self, args: Any, state_: Any, control: Any, **_: Any) -> None:
            seen["seconds"] = time.perf_counter() - state["started"]
            seen["update"] = seen["seconds"] - seen.get("collect", 0.0)
            if kind == "grpo":
                seen["units"], seen["tokens"] = sizes.prompts * sizes.group, sum(data.lengths(state["step"]))
            elif kind != "sft":
                seen["units"] = sizes.pairs
            state["step"] += 1

    class Measured(trainer_type):  # type: ignore[misc, valid-type]
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any) -> Any:
            if "labels" in (inputs if isinstance(inputs, dict) else {}):
                seen["units"] = seen.get("units", 0) + float((inputs["input_ids"] != 0).sum())
            loss = super().training_step(model, inputs, num_items_in_batch)
            seen["loss"] = seen.get("loss", 0.0) + float(loss)
            return loss

        def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
            norm = super()._get_grad_norm(*args, **kwargs)
            seen["grad_norm"] = float(norm)
            return norm

        def _generate_and_score_completions(self, *args: Any) -> Any:
            started = time.perf_counter()
            found = super()._generate_and_score_completions(*args)
            seen["collect"] = seen.get("collect", 0.0) + time.perf_counter() - started
            return found

        def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
            if options.get("given"):
                return data.completions(state["step"]), None
            model = self.accelerator.unwrap_model(self.model)
            processor = EndsAt(data.lengths(state["step"]), max(len(ids) for ids in prompt_ids))
            original = model.generate
            model.generate = lambda *a, **k: original(*a, **k, logits_processor=[processor])
            started = time.perf_counter()
            try:
                return super()._generate_single_turn(prompt_ids, *args, **kwargs)
            finally:
                seen["rollout"] = time.perf_counter() - started
                del model.generate

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return data.rewards(bool(options.get("half")))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model: Any
        if kind == "reward_model":
            model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32)
        else:
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        trainer = Measured(
            model=model, args=config_type(**arguments(kind, sizes, folder, options)),
            train_dataset=dataset_of(kind, data), processing_class=tokenizer, callbacks=[Gate()],
            **({"reward_funcs": reward} if kind == "grpo" else {}),
        )  # fmt: skip
        trainer.train()
