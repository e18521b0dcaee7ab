"""What an algorithm is: `collect` makes the batch of the next optimizer steps, `update` takes one step on it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from service.domain.job import JobSpec
from service.domain.job_state import JobFailure
from service.domain.rubric import Aggregation
from service.domain.scoring import Past
from workers.types import (
    Batch,
    CompletionGroup,
    FlatDistributions,
    FlatLogprobs,
    LossOutput,
    PolicyBatch,
    PreferenceBatch,
    Prompt,
    SupervisedBatch,
    UpdateReport,
)


class Policy(Protocol):
    """The model that is trained, as algorithms see it."""

    device: torch.device

    def parameters(self) -> Iterable[torch.nn.Parameter]:
        """What the optimizer moves."""

    def microbatches(self, batch: Any) -> Sequence[Any]:
        """The batch cut into pieces that fit; their losses and gradients add up to the batch's."""

    def logprobs(self, batch: PolicyBatch, *, entropy: bool = False, values: bool = False) -> FlatLogprobs:
        """Log-probabilities of the completions and, if asked for, entropy and value at every token, with gradient."""

    def values(self, batch: PolicyBatch) -> Float[Tensor, " time"]:
        """What the value model says before each completion token, with gradient."""

    def distributions(self, batch: PolicyBatch) -> FlatDistributions:
        """The logits at each completion token, at the batch's temperature, with gradient."""

    def reference_logprobs(self, batch: PolicyBatch) -> Float[Tensor, " time"]:
        """The same under the frozen reference."""

    def supervised_logprobs(self, batch: SupervisedBatch) -> FlatLogprobs:
        """Log-probabilities of the demonstrations' completions, with gradient."""

    def pair_logprobs(self, batch: PreferenceBatch) -> FlatLogprobs:
        """Log-probabilities of chosen and rejected completions, with gradient."""

    def reference_pair_logprobs(self, batch: PreferenceBatch) -> FlatLogprobs:
        """The same under the policy that the job started from; without an adapter only before the first step."""

    def pair_rewards(self, batch: PreferenceBatch) -> Float[Tensor, " batch"]:
        """A reward model's rewards of chosen and rejected completions, with gradient."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A tokenised demonstration."""

    id: str
    prompt: list[int]
    completion: list[int]
    weight: float
    trained: list[bool] | None = None
    """Which tokens of the completion are learned; null: all."""


@dataclass(frozen=True, slots=True)
class Preference:
    """A tokenised pair."""

    id: str
    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    margin: float


def pairs_of(rows: Sequence[Preference], reference: Mapping[str, tuple[float, float]] | None = None) -> PreferenceBatch:
    """The pairs of one optimizer step, with what the reference says of each if it is asked for."""
    return PreferenceBatch(
        ids_P=[row.id for row in rows],
        prompts_P_T=[row.prompt for row in rows],
        chosen_P_T=[row.chosen for row in rows],
        rejected_P_T=[row.rejected for row in rows],
        margins_P=[row.margin for row in rows],
        reference_P=[reference[row.id] for row in rows] if reference is not None else [],
        pairs_in_step=len(rows),
    )


@dataclass(frozen=True, slots=True)
class Judged:
    """What a policy says of pairs: the loss of each, with gradient, and the rewards of chosen and rejected in turn."""

    losses: Float[Tensor, " pairs"]
    rewards: Float[Tensor, " two_per_pair"]

    def metrics(self) -> dict[str, tuple[float, float]]:
        """Sums and counts, as `LossOutput` has them."""
        won, lost = self.rewards[0::2], self.rewards[1::2]
        count = float(len(won))
        return {
            "accuracy": (float((won > lost).sum()), count),
            "reward_margin": (float((won - lost).sum()), count),
            "reward.chosen": (float(won.sum()), count),
            "reward.rejected": (float(lost.sum()), count),
        }


class LearnsPairs(Protocol):
    """An algorithm that can say what it makes of pairs that it does not train on."""

    def refer(self, policy: Policy, environment: Environment, rows: Sequence[Preference]) -> PreferenceBatch:
        """Pairs as a batch, with what the reference says of them where one is needed."""

    def judge(self, policy: Policy, batch: PreferenceBatch) -> Judged:
        """The loss of each pair, and the rewards of chosen and rejected."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """The groups of a step in their places, those that were replaced, and how often prompts were drawn again."""

    groups: list[CompletionGroup]
    replaced: list[CompletionGroup]
    resamples: int


class Environment(Protocol):
    """Where batches come from: prompts, samples with their grades, demonstrations."""

    def next_prompts(self, count: int) -> list[Prompt]:
        """The next prompts of the job's shuffled data."""

    @property
    def prompt_count(self) -> int:
        """How many prompts the job's data has."""

    @property
    def step(self) -> int:
        """Finished optimizer steps."""

    def next_demonstrations(self, count: int) -> list[Demonstration]:
        """The next demonstrations of the job's shuffled data."""

    def next_preferences(self, count: int) -> list[Preference]:
        """The next pairs of the job's shuffled data."""

    def all_preferences(self, count: int) -> list[Preference]:
        """The pairs that the job sees at `count` a step, each once."""

    @property
    def reference(self) -> dict[str, tuple[float, float]]:
        """Summed log-probabilities of pairs under the reference, by row; saved in checkpoints."""

    def check(self) -> None:
        """Raise if the run is to stop at a checkpoint. Called between pieces of long work."""

    def rollout(
        self, prompts: list[Prompt], score: Callable[[Sequence[CompletionGroup]], None]
    ) -> list[CompletionGroup]:
        """Sample a group for each prompt, grade them, and hand all of them to `score`; in the order of the prompts."""

    def rollout_with_signal(
        self, prompts: list[Prompt], score: Callable[[Sequence[CompletionGroup]], None], resamples: int
    ) -> Drawn:
        """The same, and groups without signal replaced by groups of the next prompts, up to so many times."""

    @property
    def reward_average(self) -> float | None:
        """The moving average of earlier steps' mean rewards; null before the first."""

    def note_reward(self, reward: float, decay: float) -> None:
        """Count a step's mean reward into the moving average, for the steps after it."""

    def report(self, metrics: dict[str, float]) -> None:
        """Metrics of the step that is being collected."""

    @property
    def aggregations(self) -> Mapping[str, Aggregation]:
        """The options that each rubric version's groups are scored with: the job's over its author's."""

    def past(self, rubric: str) -> Past:
        """What earlier steps say about the criteria of a rubric version."""


@dataclass(frozen=True, slots=True)
class Collected:
    """A batch, and for how many optimizer steps it serves."""

    batch: Batch
    uses: int = 1


class Alone:
    """One process takes the whole of a step. `workers.training.together` has the same for several."""

    def step(self, batch: Batch, optimizer: torch.optim.Optimizer) -> contextlib.AbstractContextManager[None]:
        """Around everything that a step does."""
        return contextlib.nullcontext()

    def pieces(self, policy: Policy, batch: Batch) -> Iterable[tuple[Any, float]]:
        """What this process runs, and what its loss counts for the gradient: times the processes that it is averaged over, or 0."""
        return ((piece, 1.0) for piece in policy.microbatches(batch))

    def run(self, loss: Callable[[], LossOutput]) -> LossOutput:
        """The forward of a piece."""
        return loss()

    def together(
        self, total: float, sums: dict[str, tuple[float, float]]
    ) -> tuple[float, dict[str, tuple[float, float]]]:
        """Loss and metrics' sums over all processes."""
        return total, sums

    def clip(self, parameters: Sequence[torch.nn.Parameter], limit: float) -> float:
        """Clip the gradient to `limit`; its norm before."""
        return float(torch.nn.utils.clip_grad_norm_(parameters, limit))


class Algorithm:
    """The base: plain gradient steps on `loss`."""

    trains = True
    model_kind: Literal["policy", "reward"] = "policy"
    """What is trained: a language model, or one with a scalar head."""
    value_kind: Literal["separate", "shared"] | None = None
    """Whether a value model is trained beside the policy, and on which trunk."""
    value_learning_rate: float | None = None
    full_precision = False
    """Whether everything is computed in float32 even where the job's precision is lower."""
    kl_limit: float | None = None
    """Above this mean divergence from the reference, in nats per token, the job stops."""
    best_metrics = ("evaluation.plain_reward", "evaluation.loss")
    """What makes one checkpoint better than another: the first of these that was measured."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        self.crew = Alone()

    @property
    def needs_reference(self) -> bool:
        """Whether a frozen copy of the first policy is needed."""
        return False

    def prepare(self, policy: Policy, environment: Environment) -> None:
        """What has to be done with the policy before its first step; called again after a resume."""

    def collect(self, environment: Environment) -> Collected:
        """The batch of the next optimizer step or steps."""
        raise NotImplementedError

    def complete(self, policy: Policy, batch: Batch) -> Batch:
        """What the batch needs to be told by the policy that sampled it, before the first step on it."""
        return batch

    def part(self, batch: Batch, use: int, collected_at: int) -> Batch:
        """What the optimizer step number `use` on a collected batch learns from: all of it, unless it is cut into minibatches.

        `collected_at` is the step that it was collected after: together the two name this step's random numbers.
        """
        return batch

    def loss(self, policy: Policy, batch: Any) -> LossOutput:
        """This piece's share of the step's loss."""
        raise NotImplementedError

    def update(self, policy: Policy, batch: Batch, optimizer: torch.optim.Optimizer) -> UpdateReport:
        """One optimizer step: forward and backward on each micro-batch, clip, step.

        The gradient does not depend on how the batch is cut, because every piece is divided by the denominators of the
        whole step. Raises before the step, with weights and moments as they were: `JobFailure(nonfinite_loss)` if a loss or the
        gradient is not finite, `JobFailure(kl_limit)` if the policy is too far from the reference.
        """
        with self.crew.step(batch, optimizer):
            optimizer.zero_grad(set_to_none=False)
            sums: dict[str, tuple[float, float]] = {}
            total = 0.0
            for piece, factor in self.crew.pieces(policy, batch):
                output = self.crew.run(lambda piece=piece: self.loss(policy, piece))  # type: ignore[misc]
                (factor * output.loss).backward()  # type: ignore[no-untyped-call]
                if factor == 0.0:
                    continue
                total += float(output.loss.detach())
                for name, (value, count) in output.metrics.items():
                    before = sums.get(name, (0.0, 0.0))
                    sums[name] = (before[0] + value, before[1] + count)
            total, sums = self.crew.together(total, sums)
            if not math.isfinite(total):
                raise JobFailure("nonfinite_loss", "the loss is not finite; lower the learning rate or check the data")
            parameters = [p for p in policy.parameters() if p.grad is not None]
            norm = self.crew.clip(parameters, self.spec.training.max_grad_norm)
            if not math.isfinite(norm):
                message = "the gradient is not finite; lower the learning rate or check the data"
                raise JobFailure("nonfinite_loss", message)
            means = {name: value / count for name, (value, count) in sums.items() if count}
            self.check_divergence(means)
            optimizer.step()
        return UpdateReport({"loss": total, "grad_norm": norm, **means})

    def check_divergence(self, means: Mapping[str, float]) -> None:
        """`JobFailure(kl_limit)` if the step's mean divergence from the reference is above the limit."""
        if self.kl_limit is not None and means.get("kl", 0.0) > self.kl_limit:
            raise JobFailure(
                "kl_limit",
                f"the policy is {means['kl']:.4g} nats per token from the reference, more than algorithm.kl.max {self.kl_limit:g}; "
                "raise kl.beta or lower the learning rate",
            )


def supervised_loss(policy: Policy, batch: SupervisedBatch) -> LossOutput:
    """Σ weight·(−log π) / Σ weight over the trained tokens of the optimizer step."""
    flat = policy.supervised_logprobs(batch)
    weights = flat.logprobs.new_tensor(batch.weights_B)[flat.sequence]
    loss = -(weights * flat.logprobs).sum() / batch.weight_in_step
    nll = float(-flat.logprobs.detach().sum())
    return LossOutput(loss, {"nll": (nll, float(flat.logprobs.numel()))})
