"""A softmax over actions per context, trained with exact gradients of GRAPE's update: thousands of runs in minutes.

A completion is one action, so its token is its sequence and all means of the loss agree. Rewards and advantages come from
`service.domain.scoring.score_groups`; the expected reward of the policy is computed, not sampled.
"""

from __future__ import annotations

import numpy as np

from benchmarks.claim.judge import SimulatedJudge
from benchmarks.claim.problem import SAMPLING, Floats, make_problem, stream
from benchmarks.claim.protocol import ALL_ARMS, Protocol, RunKey
from benchmarks.claim.scoring import Scorer

CLIP_LOW, CLIP_HIGH = 0.2, 0.28
"""As the product's default objective."""


def softmax(logits: Floats) -> Floats:
    """Over the last axis."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def surrogate_gradient(logits: Floats, old: Floats, actions: np.ndarray, advantages: Floats, members: int) -> Floats:
    """The gradient of Σ −min(ρA, clip(ρ)A) / members with respect to the logits, shape (contexts, actions).

    `old[p, i]` is the sampling policy's probability of `actions[p, i]`; ρ = π/old. Where the clip stops the gradient (ρ above
    1+high with A > 0, below 1−low with A < 0) a completion adds nothing; elsewhere −A·ρ·(onehot − π).
    """
    rows = np.arange(len(logits))[:, None]
    policy = softmax(logits)
    ratio = policy[rows, actions] / old
    stopped = ((ratio > 1 + CLIP_HIGH) & (advantages > 0)) | ((ratio < 1 - CLIP_LOW) & (advantages < 0))
    pull = np.where(stopped, 0.0, advantages * ratio) / max(members, 1)
    gradient = policy * pull.sum(axis=1, keepdims=True)
    np.subtract.at(gradient, (rows, actions), pull)
    return gradient


def train(protocol: Protocol, key: RunKey) -> list[float]:
    """The attained fraction of the attainable plain reward before each step and after the last: steps + 1 numbers."""
    sizes, arm = protocol.categorical, ALL_ARMS[key.arm]
    problem = make_problem(key.cell.setting, sizes, key.seed)
    judge = SimulatedJudge(protocol.judge, problem, key.cell, arm, key.seed)
    scorer = Scorer(arm, problem.setting, sizes.steps)
    quality = problem.quality(problem.latent)
    plain = problem.plain(quality)
    contexts = np.arange(sizes.contexts)[:, None]
    assert sizes.prompts_per_step == sizes.contexts, "every context is a prompt of every step"

    logits = np.zeros((sizes.contexts, sizes.actions))
    curve = []
    for step in range(sizes.steps):
        policy = softmax(logits)
        curve.append(problem.fraction(float((policy * plain).sum(axis=1).mean())))
        actions = sample(policy, stream(key.seed, SAMPLING, step).random((sizes.contexts, sizes.group_size)))
        old = policy[contexts, actions]
        verdicts = judge.grade(quality[contexts, actions], step)
        scored = scorer.score([judge.rows(verdicts, group) for group in range(sizes.contexts)], step)
        members = sum(c.member for group in scored for c in group.completions)
        advantages = np.array([[c.advantage or 0.0 for c in group.completions] for group in scored])
        for _ in range(sizes.inner_epochs):
            logits -= sizes.learning_rate * surrogate_gradient(logits, old, actions, advantages, members)
    policy = softmax(logits)
    curve.append(problem.fraction(float((policy * plain).sum(axis=1).mean())))
    return curve


def sample(policy: Floats, uniform: Floats) -> np.ndarray:
    """Actions by inverting each context's distribution function at `uniform` (contexts, samples)."""
    cumulative = policy.cumsum(axis=1)
    target = uniform * cumulative[:, -1:]
    return np.minimum((cumulative[:, None, :] <= target[:, :, None]).sum(axis=-1), policy.shape[1] - 1)
