"""Our side: the product's loader, loop and algorithms, one optimizer step at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.trainers.sizes import Data, Sizes
from service.domain.grade import Cell
from service.domain.job import JobSpec, resolved
from service.domain.rubric import DEFAULT_AGGREGATION
from service.domain.scoring import CriterionWeight
from workers.algorithms import ALGORITHMS
from workers.algorithms.base import Demonstration, Preference
from workers.algorithms.on_policy import trainer_logprobs
from workers.policy.heads import load_reward_policy
from workers.policy.loading import ModelFiles, load_policy
from workers.policy.supervised import keeps_packed_apart
from workers.training.environment import Rollouts, TrainingEnvironment
from workers.training.loop import Run
from workers.training.optim import build_optimizer
from workers.training.state import TrainerState
from workers.types import Completion, CompletionGroup, Prompt

Step = dict[str, float]
KINDS = {"sft": "sft", "dpo": "dpo", "reward_model": "reward_model", "grpo": "grpo"}
DATA = {"sft": "demonstrations", "dpo": "preferences", "reward_model": "preferences", "grpo": "prompts"}


class Silent:
    """A recorder and a control that nobody listens to; it keeps the last step's metrics."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Kept until the next step."""
        self.last = values

    def progress(self, step: int) -> None:
        """Dropped."""

    def completions(self, step: int, purpose: str, groups: Sequence[CompletionGroup]) -> None:
        """Dropped."""

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Dropped."""

    def check(self) -> None:
        """Never interrupts."""


class GivenRewards:
    """A grader that says what the benchmark wants: the k-th completion of prompt p gets its fixed reward."""

    def __init__(self, rewards: Sequence[float], group: int) -> None:
        self.rewards, self.group = rewards, group
        self.criteria = [CriterionWeight("reward", 1.0, judged=False)]

    def start(self, purpose: str, step: int) -> GivenRewards:
        """One grading after the other."""
        return self

    def submit(self, group: CompletionGroup) -> None:
        """Cells for a group, at once."""
        first = int(group.prompt.id) * self.group
        said: dict[str, Any] = {"criterion": "reward", "grader": "regex", "status": "ok", "confidence": 1.0}
        group.criteria = self.criteria
        group.cells = [
            {"reward": Cell(score=self.rewards[first + k], confidence_source="verifier", **said)}
            for k in range(len(group.completions))
        ]

    def finish(self) -> None:
        """Nothing is outstanding."""

    def forget(self) -> None:
        """Nothing is remembered."""


def spec_of(kind: str, sizes: Sizes, precision: str) -> JobSpec:
    """The job that a user would submit; the learning rate is so low that the model stays what it is."""
    body: dict[str, Any] = {
        "algorithm": {"type": KINDS[kind]},
        "policy": {"model": "mdl_0"},
        "data": {DATA[kind]: "ds_0"},
        "training": {"steps": 1_000_000, "learning_rate": 1e-6, "precision": precision},
    }
    if kind == "grpo":
        body["rubric"] = {"id": "rub_0"}
        body["algorithm"].update(
            objective={"clip_low": 0.2, "clip_high": 0.2}, advantage={"scale_eps": 1e-4}
        )  # as TRL has them
        body["rollout"] = {
            "group_size": sizes.group,
            "prompts_per_step": sizes.prompts,
            "max_completion_tokens": sizes.completion_tokens,
        }
    else:
        body["training"]["batch_size"] = sizes.rows if kind == "sft" else sizes.pairs
    spec = resolved(JobSpec.model_validate(body))
    if kind == "grpo":
        aggregation = spec.algorithm.aggregation.over(DEFAULT_AGGREGATION).model_copy(update={"weighting": "uniform"})
        spec = spec.model_copy(update={"algorithm": spec.algorithm.model_copy(update={"aggregation": aggregation})})
    return spec


def build(kind: str, sizes: Sizes, data: Data, folder: Path, *, precision: str, half: bool) -> tuple[Run, Silent]:
    """A run of the product's loop on the benchmark's data."""
    spec, silent, state = spec_of(kind, sizes, precision), Silent(), TrainerState()
    files = ModelFiles("mdl_0", folder, [])
    common: dict[str, Any] = {
        "adapter": None, "precision": precision, "budget": spec.training.microbatch_tokens, "seed": 0,
    }  # fmt: skip
    policy: Any
    policy = (
        load_reward_policy(files, **common) if kind == "reward_model" else load_policy(files, reference=False, **common)
    )
    environment = TrainingEnvironment(spec, state, silent, steps=1, check=silent.check)
    if kind == "grpo":
        grader: Any = GivenRewards(data.rewards(half), sizes.group)
        environment.prompts = [Prompt(str(p), tokens, {}) for p, tokens in enumerate(data.prompts())]
        environment.rollouts = Rollouts(policy, grader, silent, 0, sizes.completion_tokens)
    elif kind == "sft":
        policy.packs = keeps_packed_apart(policy.model, policy.pad_id, policy.device)
        rows = data.demonstrations()
        environment.demonstrations = [Demonstration(str(k), p, c, 1.0) for k, (p, c) in enumerate(rows)]
    else:
        pairs = data.pairs()
        environment.preferences = [Preference(str(k), p, c, r, 0.0) for k, (p, c, r) in enumerate(pairs)]
    algorithm = ALGORITHMS[spec.algorithm.type](spec)
    run = Run(
        spec=spec, steps=1_000_000, algorithm=algorithm, policy=policy, optimizer=build_optimizer(policy, spec.training),
        environment=environment, evaluation=None, state=state, recorder=silent, control=silent, save=lambda state: None,
    )  # fmt: skip
    return run, silent


def timed(function: Callable[..., Any], into: Step, name: str) -> Callable[..., Any]:
    """The function, adding its seconds to `into[name]`."""

    def call(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            into[name] = into.get(name, 0.0) + time.perf_counter() - started

    return call


def steps(kind: str, sizes: Sizes, data: Data, folder: Path, options: dict[str, Any]) -> Iterator[Step]:
    """Take a step each time it is asked for one: its seconds, what it worked through, loss and gradient norm."""
    run, silent = build(kind, sizes, data, folder, precision=options["precision"], half=bool(options.get("half")))
    seen: Step = {}
    algorithm: Any = run.algorithm
    algorithm.update = timed(algorithm.update, seen, "update")
    if kind == "grpo":
        yield from _on_policy(run, silent, sizes, data, seen, given=bool(options.get("given")))
        return
    units = sizes.pairs if kind != "sft" else sum(len(p) + len(c) for p, c in data.demonstrations())
    if options.get("known"):
        algorithm.prepare(run.policy, run.environment)
    yield {}  # ready
    while True:
        seen.clear()
        started = time.perf_counter()
        if kind == "dpo" and not options.get("known"):
            run.state.reference.clear()  # an epoch's pairs are seen once, each with its reference
            algorithm.prepare(run.policy, run.environment)
        run._step()
        seconds = time.perf_counter() - started
        yield {"seconds": seconds, "units": units, **_maths(silent)}


def _maths(silent: Silent) -> Step:
    return {"loss": silent.last["loss"], "grad_norm": silent.last["grad_norm"]}


def _on_policy(run: Run, silent: Silent, sizes: Sizes, data: Data, seen: Step, *, given: bool) -> Iterator[Step]:
    environment: Any = run.environment
    inner = environment.rollouts.policy

    class Forced:
        """The policy, with the step's lengths for its samples."""

        def __getattr__(self, name: str) -> Any:
            return getattr(inner, name)

        def sample(self, prompts: Any, options: Any, *rest: Any) -> None:
            limited = replace(options, limits=data.lengths(run.state.step))
            timed(inner.sample, seen, "rollout")(prompts, limited, *rest)

    environment.rollouts.policy = Forced()
    if given:
        _give(run, data, sizes)
    yield {}
    while True:
        seen.clear()
        started = time.perf_counter()
        run._step()
        seconds = time.perf_counter() - started
        yield {
            "seconds": seconds, "units": sizes.prompts * sizes.group, "update": seen["update"],
            "rollout": seen.get("rollout", 0.0), "tokens": sum(data.lengths(run.state.step - 1)), **_maths(silent),
        }  # fmt: skip


def _give(run: Run, data: Data, sizes: Sizes) -> None:
    """Completions are given instead of sampled: the same as TRL's, to compare the mathematics."""
    environment: Any = run.environment
    algorithm: Any = run.algorithm
    rollouts = environment.rollouts

    def groups_of(logprobs: list[list[float]]) -> list[CompletionGroup]:
        rows = iter(zip(data.completions(run.state.step), logprobs, strict=True))
        groups = []
        for prompt in environment.prompts:
            made = [Completion(tokens, old, "stop", "") for tokens, old in (next(rows) for _ in range(sizes.group))]
            group = CompletionGroup(prompt, made)
            rollouts.grader.submit(group)
            group.steps = [{} for _ in made]
            groups.append(group)
        return groups

    def sampled(prompts: Any, **_: Any) -> Any:
        from service.domain.scoring import Past
        from workers.advantages.group import score_step

        first = groups_of([[0.0] * n for n in data.lengths(run.state.step)])
        score_step(first, algorithm.options, lambda rubric: Past())
        return groups_of(trainer_logprobs(run.policy, algorithm.batch_of(first, skip=False))), rollouts.grader

    rollouts_type: Any = type("Given", (), {"run": staticmethod(sampled), "sampling_s": 0.0, "grading_wait_s": 0.0})
    environment.rollouts = rollouts_type()
