"""What travels between the rooms of the workers: prompts, completions, groups, batches.

Subscripts say what a ragged list runs over: `tokens_B_T[b][t]` is token t of sequence b. Batches are flat and ragged:
sequences of any length, a prompt stored once for all of its completions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from service.domain.grade import Cell
from service.domain.scoring import CriterionWeight, ScoredGroup

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt as the policy sees it (`tokens`) and as graders and people see it (`view`: id, category, messages …)."""

    id: str
    tokens: list[int]
    view: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Completion:
    """One sample. Token ids are the truth; `logprobs[t]` is the sampler's log-probability of `tokens[t]`."""

    tokens: list[int]
    logprobs: list[float]
    finish_reason: str
    text: str


@dataclass(frozen=True, slots=True)
class RevisedSample:
    """An accepted revision that the policy has written, with its fresh cells. Its log-probabilities are those in the revision prompt."""

    completion: Completion
    cells: dict[str, Cell]


@dataclass(slots=True)
class CompletionGroup:
    """The completions of one prompt, with their cells once they are graded and their numbers once they are scored."""

    prompt: Prompt
    completions: list[Completion]
    criteria: list[CriterionWeight] = field(default_factory=list)
    """What this prompt is graded on, as aggregation needs it; the grader sets it."""
    rubric: str = ""
    """The hash of the rubric version that it is graded by: running quantities are kept per version; the grader sets it."""
    cells: list[dict[str, Cell]] = field(default_factory=list)
    steps: list[dict[str, list[int]]] = field(default_factory=list)
    """For each completion, by step criterion: the step that each token belongs to."""
    penalties: list[float] = field(default_factory=list)
    """What is taken off each completion's reward for its length; empty: nothing is. The algorithm sets it."""
    scored: ScoredGroup | None = None
    ids: list[str] = field(default_factory=list)
    critiques: list[dict[str, str]] = field(default_factory=list)
    """Of each completion: its id, and the ids of what judges said, by criterion; the recorder sets them."""
    revisions: list[RevisedSample] = field(default_factory=list)
    """What joins the group's update without being one of its members (grape.md §7, use `group`)."""


@dataclass(frozen=True, slots=True)
class PolicyBatch:
    """What one optimizer step of a policy-gradient algorithm learns from.

    `advantages_B_T[b][t]` is the advantage of token t: the same for all tokens of a completion unless credit is given by step.
    `prompt_of_B` names the prompt of each completion. `tokens_in_step` and `sequences_in_step` are the denominators of the
    whole optimizer step: they count every member of every group, also of the groups that were left out because their
    gradient is exactly zero.
    """

    prompts_P_T: list[list[int]]
    tokens_B_T: list[list[int]]
    logprobs_B_T: list[list[float]]
    advantages_B_T: list[list[float]]
    prompt_of_B: list[int]
    tokens_in_step: int
    sequences_in_step: int
    max_completion_tokens: int
    temperature: float
    rewards_B: list[float] = field(default_factory=list)
    """The reward of each completion, where rewards become advantages by way of a value model."""
    weights_B_T: list[list[float]] = field(default_factory=list)
    """Importance weights of tokens; none: 1."""
    sampled_B_T: list[list[float]] = field(default_factory=list)
    """With importance weights: the sampler's log-probabilities, while `logprobs_B_T` are the trainer's before its first step."""
    divergences_B_T: list[list[float]] = field(default_factory=list)
    """Estimates of the divergence from the reference under the policy that sampled, where the reward pays for it."""
    revised_B: list[bool] = field(default_factory=list)
    """Which sequences were sampled from another prompt (revisions): until the trainer's are known, `logprobs_B_T` has the sampler's
    there. None: no one."""
    values_B_T: list[list[float]] = field(default_factory=list)
    returns_B_T: list[list[float]] = field(default_factory=list)
    """What the value model said before each token when it was sampled, and what it should have said."""
    unit_of_B: list[int] = field(default_factory=list)
    tokens_U: list[int] = field(default_factory=list)
    sequences_U: list[int] = field(default_factory=list)
    """The units that minibatches are made of, where they are not single sequences: the unit of each sequence, and how many tokens
    and sequences each unit has in the denominators, units without a sequence here (their gradient is zero) included."""

    @property
    def token_count(self) -> int:
        """Completion tokens of the step, those included whose gradient is known to be zero."""
        return self.tokens_in_step

    def select(self, rows: list[int]) -> PolicyBatch:
        """The same step with only these sequences in it."""
        used = sorted({self.prompt_of_B[b] for b in rows})
        place = {p: k for k, p in enumerate(used)}

        def of(values: list[T]) -> list[T]:
            return [values[b] for b in rows] if values else []

        return replace(
            self,
            prompts_P_T=[self.prompts_P_T[p] for p in used],
            prompt_of_B=[place[self.prompt_of_B[b]] for b in rows],
            tokens_B_T=of(self.tokens_B_T),
            logprobs_B_T=of(self.logprobs_B_T),
            advantages_B_T=of(self.advantages_B_T),
            rewards_B=of(self.rewards_B),
            weights_B_T=of(self.weights_B_T),
            sampled_B_T=of(self.sampled_B_T),
            divergences_B_T=of(self.divergences_B_T),
            unit_of_B=of(self.unit_of_B),
            revised_B=of(self.revised_B),
            values_B_T=of(self.values_B_T),
            returns_B_T=of(self.returns_B_T),
        )


@dataclass(frozen=True, slots=True)
class SupervisedBatch:
    """Demonstrations of one optimizer step; `weight_in_step` is the sum over all trained tokens of their rows' weights.

    `trained_B_T[b][t]` says whether token t is learned or only read (a user's turn between two of the assistant's); none: all are.
    """

    prompts_B_T: list[list[int]]
    tokens_B_T: list[list[int]]
    weights_B: list[float]
    weight_in_step: float
    trained_B_T: list[list[bool]] = field(default_factory=list)

    @classmethod
    def step(
        cls, prompts: list[list[int]], tokens: list[list[int]], weights: list[float], trained: list[list[bool]]
    ) -> SupervisedBatch:
        """These rows as an optimizer step."""
        batch = cls(prompts, tokens, weights, 0.0, [] if all(all(row) for row in trained) else trained)
        return batch.minibatch(list(range(len(tokens))))

    def minibatch(self, rows: list[int]) -> SupervisedBatch:
        """These rows as an optimizer step of their own."""
        weight = sum(self.weights_B[b] * self.trained_tokens(b) for b in rows)
        return replace(self.select(rows), weight_in_step=float(weight))

    def trained_places(self, b: int) -> list[int]:
        """The places of a row's trained tokens in its completion."""
        if not self.trained_B_T:
            return list(range(len(self.tokens_B_T[b])))
        return [t for t, trained in enumerate(self.trained_B_T[b]) if trained]

    def trained_tokens(self, b: int) -> int:
        """How many tokens of a row are trained."""
        return sum(self.trained_B_T[b]) if self.trained_B_T else len(self.tokens_B_T[b])

    @property
    def token_count(self) -> int:
        """Trained tokens."""
        return sum(self.trained_tokens(b) for b in range(len(self.tokens_B_T)))

    def select(self, rows: list[int]) -> SupervisedBatch:
        """The same step with only these rows in it."""
        return SupervisedBatch(
            [self.prompts_B_T[b] for b in rows],
            [self.tokens_B_T[b] for b in rows],
            [self.weights_B[b] for b in rows],
            self.weight_in_step,
            [self.trained_B_T[b] for b in rows] if self.trained_B_T else [],
        )


@dataclass(frozen=True, slots=True)
class PreferenceBatch:
    """Pairs of one optimizer step, each with its prompt once.

    `reference_P` has the sums of the reference's log-probabilities (chosen, rejected), empty where no reference is needed;
    `pairs_in_step` is the denominator of the whole optimizer step.
    """

    ids_P: list[str]
    prompts_P_T: list[list[int]]
    chosen_P_T: list[list[int]]
    rejected_P_T: list[list[int]]
    margins_P: list[float]
    reference_P: list[tuple[float, float]]
    pairs_in_step: int

    @property
    def token_count(self) -> int:
        """Completion tokens of both sides."""
        return sum(len(tokens) for tokens in self.completions_B_T)

    def select(self, pairs: list[int]) -> PreferenceBatch:
        """The same step with only these pairs in it."""
        return PreferenceBatch(
            [self.ids_P[p] for p in pairs],
            [self.prompts_P_T[p] for p in pairs],
            [self.chosen_P_T[p] for p in pairs],
            [self.rejected_P_T[p] for p in pairs],
            [self.margins_P[p] for p in pairs],
            [self.reference_P[p] for p in pairs] if self.reference_P else [],
            self.pairs_in_step,
        )

    @property
    def completions_B_T(self) -> list[list[int]]:
        """Chosen and rejected of each pair, one after the other: sequence 2p and 2p + 1 belong to pair p."""
        pairs = zip(self.chosen_P_T, self.rejected_P_T, strict=True)
        return [tokens for pair in pairs for tokens in pair]

    @property
    def prompt_of_B(self) -> list[int]:
        """The prompt of each of `completions_B_T`."""
        return [p for p in range(len(self.prompts_P_T)) for _ in range(2)]


Batch = PolicyBatch | SupervisedBatch | PreferenceBatch


@dataclass(frozen=True, slots=True)
class FlatLogprobs:
    """Log-probabilities of the completion tokens of a batch, sequence after sequence.

    `logprobs[k]` belongs to sequence `sequence[k]`; both have one entry per completion token. `entropy` and
    `values`, if they were asked for, are the distribution's entropy and the value model's word before each token.
    """

    logprobs: Float[Tensor, " time"]
    sequence: Int[Tensor, " time"]
    lengths: list[int]
    entropy: Float[Tensor, " time"] | None = None
    values: Float[Tensor, " time"] | None = None


@dataclass(frozen=True, slots=True)
class FlatDistributions:
    """Logits at the temperature, one row per completion token, sequence after sequence."""

    logits: Float[Tensor, "time vocab"]
    sequence: Int[Tensor, " time"]
    lengths: list[int]


@dataclass(frozen=True, slots=True)
class LossOutput:
    """A scalar to differentiate, already divided by the step's denominators, and sums for the metrics.

    Metrics are (sum, count) pairs, so that micro-batches add up to the mean over the step.
    """

    loss: Float[Tensor, ""]
    metrics: dict[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """What one optimizer step did."""

    metrics: dict[str, float]


def flatten(values_B_T: list[list[float]], device: torch.device) -> Float[Tensor, " time"]:
    """A ragged list as one flat float32 tensor."""
    return torch.tensor([x for row in values_B_T for x in row], dtype=torch.float32, device=device)
