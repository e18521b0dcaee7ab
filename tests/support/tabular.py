"""A policy one can compute by hand: the same categorical distribution before every token, whatever came before.

It has the face of a policy, so the real losses run on it; every expectation over its sequences is a finite sum.
"""

import itertools
from dataclasses import replace

import torch

from service.domain.scoring import CriterionWeight, ScoredCell, score_group
from tests.support.training import algorithm_of, spec_of
from workers.types import Completion, CompletionGroup, FlatLogprobs, PolicyBatch, Prompt

D = torch.float64


class Tabular:
    """softmax(θ/T) over `len(θ)` tokens; a fixed reference; micro-batches of `cut` sequences."""

    device = torch.device("cpu")

    def __init__(self, logits, reference=None, cut=None):
        self.logits = torch.tensor(logits, dtype=D, requires_grad=True)
        self.reference = None if reference is None else torch.log_softmax(torch.tensor(reference, dtype=D), -1)
        self.cut = cut

    def parameters(self):
        return [self.logits]

    def microbatches(self, batch):
        rows = list(range(len(batch.tokens_B_T)))
        size = self.cut or len(rows)
        return [batch.select(rows[k : k + size]) for k in range(0, len(rows), size)]

    def logp(self, temperature=1.0):
        return torch.log_softmax(self.logits / temperature, -1)

    def logprobs(self, batch, *, entropy=False, values=False):
        logp = self.logp(batch.temperature)
        flat = torch.tensor([t for row in batch.tokens_B_T for t in row], dtype=torch.long)
        lengths = [len(row) for row in batch.tokens_B_T]
        owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        mean = -(logp.exp() * logp).sum().expand(len(flat)) if entropy else None
        return FlatLogprobs(logp[flat], owner, lengths, mean)

    def reference_logprobs(self, batch):
        return self.reference[[t for row in batch.tokens_B_T for t in row]]


def batch_of(tokens, advantages, old, temperature=1.0, limit=10):
    """One prompt; `advantages` per sequence; `old` has log-probabilities by token."""
    return PolicyBatch(
        prompts_P_T=[[0]],
        tokens_B_T=[list(row) for row in tokens],
        logprobs_B_T=[[float(old[t]) for t in row] for row in tokens],
        advantages_B_T=[[float(a)] * len(row) for row, a in zip(tokens, advantages, strict=True)],
        prompt_of_B=[0] * len(tokens),
        tokens_in_step=sum(map(len, tokens)),
        sequences_in_step=len(tokens),
        max_completion_tokens=limit,
        temperature=temperature,
    )


def gradient_of(policy, loss, batch):
    """Summed over the policy's own micro-batches."""
    policy.logits.grad = torch.zeros_like(policy.logits)
    for piece in policy.microbatches(batch):
        loss(policy, piece).loss.backward()
    return policy.logits.grad.clone()


def expected_gradient(policy, loss, behaviour, *, length, advantage, change=lambda batch: batch):
    """The mean of the gradient of single sequences over all of them, each with its probability under the sampling policy."""
    total = torch.zeros_like(policy.logits)
    for row in itertools.product(range(len(policy.logits)), repeat=length):
        probability = float(behaviour[list(row)].sum().exp())
        batch = change(batch_of([row], [advantage(row)], behaviour))
        total += probability * gradient_of(policy, loss, batch)
    return total


def true_divergence_gradient(policy):
    """∇ KL(π ‖ ref) of one token."""
    logp = policy.logp()
    return torch.autograd.grad((logp.exp() * (logp - policy.reference)).sum(), policy.logits)[0]


def true_reward_gradient(policy, reward, length):
    """∇ E[reward(y)] over all sequences of this length."""
    logp = policy.logp()
    rows = itertools.product(range(len(policy.logits)), repeat=length)
    expected = sum(logp[list(row)].sum().exp() * reward(row) for row in rows)
    return torch.autograd.grad(expected, policy.logits)[0]


def without_row(batch, row):
    """The batch with a sequence deleted, its denominators too."""
    kept = batch.select([b for b in range(len(batch.tokens_B_T)) if b != row])
    return replace(kept, tokens_in_step=sum(map(len, kept.tokens_B_T)), sequences_in_step=len(kept.tokens_B_T))


def masked_by_the_trainer(batch):
    """The real way from completions to the batch: a scored group whose first one ran into the limit, masked by the algorithm."""
    advantages = [row[0] for row in batch.advantages_B_T]
    kinds = ["length", *["stop"] * (len(batch.tokens_B_T) - 1)]
    completions = [
        Completion(list(row), logprobs, kind, "")
        for row, logprobs, kind in zip(batch.tokens_B_T, batch.logprobs_B_T, kinds, strict=True)
    ]
    scored = score_group([CriterionWeight("a", 1.0)], [{"a": ScoredCell(0.5 + a / 4)} for a in advantages])
    numbers = [replace(c, advantage=a) for c, a in zip(scored.completions, advantages, strict=True)]
    group = CompletionGroup(
        Prompt("p", [0], {}), completions, criteria=[CriterionWeight("a", 1.0)], cells=[{} for _ in batch.tokens_B_T],
        scored=replace(scored, completions=numbers),
    )  # fmt: skip
    algorithm = algorithm_of(spec_of(algorithm={"truncated": {"mode": "mask"}}))
    return replace(algorithm.batch_of([group]), max_completion_tokens=batch.max_completion_tokens)
