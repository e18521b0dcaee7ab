"""The same problem for a language model: the product's sampler, `workers.algorithms.grape` and its loop, on a tiny llama.

A completion is a few tokens. Its true quality on a criterion is the mean worth of its tokens there, which depends on the
prompt's first word, so the policy has to read. Graders are handed in, as the loop allows: here the simulated judge.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.claim.judge import SimulatedJudge
from benchmarks.claim.problem import Floats, Problem, make_problem
from benchmarks.claim.protocol import ALL_ARMS, CRITERIA, Arm, Protocol, RunKey, Sizes
from benchmarks.claim.scoring import RUBRIC, aggregation_of
from examples.tiny_model import SPECIAL, make_tiny_model
from service.domain.grade import Cell
from service.domain.job import JobSpec, resolved
from service.domain.rubric import DEFAULT_AGGREGATION
from service.domain.scoring import CriterionWeight, ScoredCell
from workers.algorithms import ALGORITHMS
from workers.policy.causal import CausalPolicy
from workers.policy.loading import ModelFiles, load_policy
from workers.training.environment import Rollouts, TrainingEnvironment
from workers.training.loop import Run
from workers.training.optim import build_optimizer
from workers.training.state import TrainerState
from workers.types import CompletionGroup, Prompt

EOS_ID = SPECIAL.index("<eos>")
FIRST_WORD = len(SPECIAL)


def token_worth(problem: Problem) -> Floats:
    """`worth[k, t, j]` of token id t in context k: actions are the words; special tokens are worth the mean, 0."""
    contexts, actions, criteria = problem.latent.shape
    worth = np.zeros((contexts, FIRST_WORD + actions, criteria))
    worth[:, FIRST_WORD:] = problem.latent
    return worth


def prompts_of(sizes: Sizes) -> list[Prompt]:
    """Two words each: the first names the context, the second is any word. Every context comes equally often."""
    return [
        Prompt(f"ds:{context}-{word}", [FIRST_WORD + context, FIRST_WORD + word], {"context": context})
        for context in range(sizes.contexts)
        for word in range(sizes.actions)
    ]


class JudgeAsGrader:
    """The loop's grader: true quality from the tokens, then the simulated judge's cells, a whole step at a time."""

    def __init__(self, judge: SimulatedJudge) -> None:
        self.judge, self.problem = judge, judge.problem
        self.worth = token_worth(judge.problem)
        self.criteria = [
            CriterionWeight(key, weight, votes=judge.arm.votes)
            for key, weight in zip(CRITERIA, judge.problem.setting.weights, strict=True)
        ]
        self.best = judge.problem.best
        self.attained: list[float] = []
        """Per step, what its completions attained of what was attainable on its prompts: the policy before the update."""

    def start(self, purpose: str, step: int) -> _Grading:
        """A grading of one step's groups."""
        return _Grading(self, step)

    def quality(self, groups: Sequence[CompletionGroup]) -> Floats:
        """True quality (groups, completions, criteria): 0.5 + scale · mean token worth, end token included."""
        rows = [
            [
                self.worth[group.prompt.view["context"], completion.tokens].mean(axis=0)
                for completion in group.completions
            ]
            for group in groups
        ]
        return self.problem.quality(np.array(rows))

    def measure(self, groups: Sequence[CompletionGroup], quality: Floats) -> None:
        """Note the step's noise-free plain reward, as a share of the best one for the same prompts."""
        best = self.best[[group.prompt.view["context"] for group in groups]]
        plain = self.problem.plain(quality).mean(axis=1)
        self.attained.append(float((plain - 0.5).sum() / (best - 0.5).sum()))


class _Grading:
    def __init__(self, grader: JudgeAsGrader, step: int) -> None:
        self.grader, self.step, self.groups = grader, step, list[CompletionGroup]()

    def submit(self, group: CompletionGroup) -> None:
        """Kept until the step is whole."""
        self.groups.append(group)

    def finish(self) -> None:
        """All cells of the step."""
        judge = self.grader.judge
        quality = self.grader.quality(self.groups)
        self.grader.measure(self.groups, quality)
        verdicts = judge.grade(quality, self.step)
        for index, group in enumerate(self.groups):
            group.criteria, group.rubric = self.grader.criteria, RUBRIC
            group.cells = [self._cells(row) for row in judge.rows(verdicts, index)]

    def _cells(self, row: dict[str, ScoredCell]) -> dict[str, Cell]:
        votes = self.grader.judge.arm.votes
        cells = {}
        for key in CRITERIA:
            said: dict[str, Any] = {"criterion": key, "grader": "judge", "votes": votes}
            if key in row:
                cell = row[key]
                said["confidence_source"] = None if cell.confidence is None else "verbal"
                said["vote_variance"] = None if cell.noise is None else cell.noise * votes
                cells[key] = Cell(status="ok", score=cell.score, confidence=cell.confidence, **said)
            else:
                cells[key] = Cell(status="refusal", reason="the simulated judge would not say", **said)
        return cells

    def forget(self) -> None:
        """Nothing is remembered."""


class _Silent:
    """A recorder and a control: this run has no database and nobody who could interrupt it."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Dropped."""

    def progress(self, step: int) -> None:
        """Dropped."""

    def completions(self, step: int, purpose: str, groups: Sequence[CompletionGroup]) -> None:
        """Dropped; the grader keeps what is measured."""

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Dropped."""

    def check(self) -> None:
        """Never interrupts."""


def spec_of(sizes: Sizes, arm: Arm, seed: int) -> JobSpec:
    """The job that a user would submit for this arm, with its defaults resolved."""
    body = {
        "algorithm": {
            "type": "grpo" if arm.weighting == "uniform" else "grape",
            "aggregation": aggregation_of(arm),
            "inner_epochs": sizes.inner_epochs,
        },
        "policy": {"model": "mdl_0"},
        "data": {"prompts": "ds_0"},
        "rubric": {"id": "rub_0"},
        "rollout": {
            "group_size": sizes.group_size,
            "prompts_per_step": sizes.prompts_per_step,
            "max_completion_tokens": sizes.completion_tokens,
        },
        "training": {
            "steps": sizes.steps * sizes.inner_epochs,
            "learning_rate": sizes.learning_rate,
            "seed": seed,
            "precision": "fp32",
        },
    }
    spec = resolved(JobSpec.model_validate(body))
    aggregation = spec.algorithm.aggregation.over(DEFAULT_AGGREGATION)
    return spec.model_copy(update={"algorithm": spec.algorithm.model_copy(update={"aggregation": aggregation})})


def fresh_policy(sizes: Sizes, seed: int) -> CausalPolicy:
    """A tiny llama with random weights, loaded by the product's loader. The same seed has the same weights in every arm."""
    with tempfile.TemporaryDirectory() as folder:
        words = [f"w{k}" for k in range(sizes.actions)]
        make_tiny_model(Path(folder), words, seed, hidden=sizes.hidden, layers=sizes.layers)
        return load_policy(
            ModelFiles("mdl_0", Path(folder), []),
            adapter=None,
            precision="fp32",
            budget=16_384,
            seed=seed,
            reference=False,
        )


def train(protocol: Protocol, key: RunKey) -> list[float]:
    """The attained fraction of the attainable plain reward, measured on each step's own completions, smoothed."""
    torch.set_num_threads(1)
    sizes, arm = protocol.transformers, ALL_ARMS[key.arm]
    problem = make_problem(key.cell.setting, sizes, key.seed)
    grader = JudgeAsGrader(SimulatedJudge(protocol.judge, problem, key.cell, arm, key.seed))
    spec, policy, silent, state = (
        spec_of(sizes, arm, key.seed),
        fresh_policy(sizes, key.seed),
        _Silent(),
        TrainerState(),
    )
    rollouts = Rollouts(policy, grader, silent, spec.training.seed, spec.rollout.max_completion_tokens)
    environment = TrainingEnvironment(spec, state, silent, prompts=prompts_of(sizes), rollouts=rollouts)
    assert spec.training.steps is not None
    Run(
        spec=spec, steps=spec.training.steps, algorithm=ALGORITHMS[spec.algorithm.type](spec), policy=policy,
        optimizer=build_optimizer(policy, spec.training), environment=environment, evaluation=None,
        state=state, recorder=silent, control=silent, save=lambda state: None,
    ).go()  # fmt: skip
    return smoothed(grader.attained, sizes.smoothing)


def smoothed(values: Sequence[float], width: int) -> list[float]:
    """Centred moving mean over `width` (odd) values; at the ends over those that there are."""
    half = width // 2
    return [float(np.mean(values[max(0, t - half) : t + half + 1])) for t in range(len(values))]
