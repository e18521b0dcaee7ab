"""TRL, driven through its own trainers: each test lets `trainer.train()` take real steps and keeps what they saw.

Only the sampling is replaced (completions are given, not generated); rewards, advantages, log-probabilities, losses, accumulation
and the optimizer are TRL's. TRL is imported inside, because only `make test-parity` installs it.
"""

import os
import random
import warnings
from dataclasses import dataclass, field

import pytest
import torch

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

MARKS = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
LETTERS = "abcdefghijklmnopqrstuvwxyz"
FIRST_LETTER, EOS = 3, 1


def text_of(tokens):
    """The text that the tiny tokenizer turns back into these tokens, without the end token, which TRL adds itself."""
    return "".join(f" {LETTERS[token - FIRST_LETTER]}" for token in tokens if token != EOS)


@dataclass
class Step:
    """One optimizer step of a peer: its loss, summed over micro-batches, and the gradient before any clipping."""

    weights: dict[str, torch.Tensor]
    loss: float = 0.0
    gradient: dict[str, torch.Tensor] = field(default_factory=dict)


def trained(kind, model, dataset, tokenizer, config, folder, *, rate=0.0, generate=None, **options):
    """The steps that a TRL trainer of this kind takes; `generate(prompt_ids)` stands in for its sampler."""
    from transformers import TrainerCallback

    steps = []

    class Keep(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            steps.append(Step({name: p.detach().clone() for name, p in model.named_parameters()}))

        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
            steps[-1].gradient = {name: p.grad.detach().clone() for name, p in model.named_parameters()}

    class Watched(kind):
        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            steps[-1].loss += float(loss)
            return loss

        def _generate_single_turn(self, prompt_ids, *args, **kwargs):
            completions = generate(prompt_ids)
            return (completions, None) if kind.__name__ == "GRPOTrainer" else completions

    base = {
        "output_dir": str(folder), "max_steps": 1, "bf16": False, "use_cpu": True, "gradient_checkpointing": False,
        "max_grad_norm": 0.0, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1000,
        "dataloader_pin_memory": False, "lr_scheduler_type": "constant",
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Watched(
            model=model, args=config(**{**base, **options}), train_dataset=dataset, processing_class=tokenizer,
            optimizers=(torch.optim.SGD(model.parameters(), lr=rate), None), callbacks=[Keep()],
            **({"reward_funcs": generate.reward} if generate is not None else {}),
        )  # fmt: skip
        trainer.train()
    return steps


@dataclass
class Sampled:
    """Given completions, as a sampler would have returned them, and their rewards."""

    prompts: list[list[int]]
    groups: list[list[list[int]]]
    rewards: list[list[float]]
    limit: int

    def dataset(self):
        from datasets import Dataset

        return Dataset.from_list([{"prompt": text_of(p)} for p in self.prompts])

    def __call__(self, prompt_ids):
        """TRL repeats a prompt once per completion: the k-th time it gets the k-th completion."""
        seen, found = {}, []
        for ids in prompt_ids:
            index = self.prompts.index(list(ids))
            k = seen.get(index, 0)
            seen[index] = k + 1
            found.append(list(self.groups[index][k]))
        return found

    def reward(self, completion_ids, **_):
        """The reward of each completion, by its tokens (no two completions are alike)."""
        known = {
            tuple(tokens): reward
            for group, rewards in zip(self.groups, self.rewards, strict=True)
            for tokens, reward in zip(group, rewards, strict=True)
        }
        return [known[tuple(tokens)] for tokens in completion_ids]


def random_groups(seed, *, prompts=3, size=4, limit=8, rewards=None):
    """Ragged prompts and completions of letters; some end with EOS, some ran into the limit."""
    rng = random.Random(seed)

    def letters(count):
        return [rng.randrange(FIRST_LETTER, FIRST_LETTER + len(LETTERS)) for _ in range(count)]

    def completion():
        length = rng.randrange(1, limit)
        return letters(limit) if rng.random() < 0.25 else [*letters(length), EOS]

    own = rewards or [[rng.randrange(0, 17) / 16 for _ in range(size)] for _ in range(prompts)]
    # The first letter tells prompts apart, the first token of a completion tells completions of all groups apart.
    asked = [[FIRST_LETTER + p, *letters(rng.randrange(1, 6))] for p in range(prompts)]
    groups = [[[FIRST_LETTER + p * size + k, *completion()][:limit] for k in range(size)] for p in range(prompts)]
    return Sampled(asked, groups, own, limit)


def causal_model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def disturb(model, seed=1, scale=0.05):
    """Move the weights away from those in the folder, the same way for every copy of the model."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def put(model, weights):
    """The model with these weights."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])


def loss_and_gradient(policy, algorithm, batch):
    """What our update would step along: the loss of the whole step and its gradient by name, before clipping."""
    for parameter in policy.parameters():
        parameter.grad = None
    total, sums = 0.0, {}
    for piece in policy.microbatches(batch):
        output = algorithm.loss(policy, piece)
        output.loss.backward()
        total += float(output.loss.detach())
        for name, (value, count) in output.metrics.items():
            before = sums.get(name, (0.0, 0.0))
            sums[name] = (before[0] + value, before[1] + count)
    metrics = {name: value / count for name, (value, count) in sums.items() if count}
    return total, {name: p.grad.clone() for name, p in policy.named_parameters()}, metrics


def assert_same(step, loss, gradient, *, factor=1.0, tolerance=1e-5):
    """The peer's gradient is `factor` times ours, to a relative error in norm; the loss too if there is one to compare."""
    assert set(step.gradient) == set(gradient)
    theirs = torch.cat([step.gradient[name].flatten() for name in sorted(gradient)]).double()
    ours = factor * torch.cat([gradient[name].flatten() for name in sorted(gradient)]).double()
    assert theirs.norm() > 1e-4, "this batch has nothing to compare"
    assert float((theirs - ours).norm() / theirs.norm()) < tolerance
    if loss is not None:
        assert loss * factor == pytest.approx(step.loss, rel=tolerance, abs=2e-6)
