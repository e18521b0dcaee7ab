"""From a job's spec to everything that its run needs: the one place that wires models, data, graders and the algorithm.

This is the job's `starting`: whatever is wrong with the model, the rows or the judges comes out here as a published failure
code and a sentence, before anything is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from service.domain.algorithm import EvaluateConfig, OnPolicyConfig, packs, samples, scoring_options
from service.domain.calibration import Calibrator
from service.domain.job import JobSpec
from service.domain.job_state import JobFailure
from service.domain.model import UNNORMALISED, UNNORMALISED_WARNING, Normalisation
from service.domain.pinned import PinnedRubrics
from service.domain.preference import RewardModelConfig
from service.domain.rubric import DEFAULT_AGGREGATION, Aggregation, RubricContent
from service.domain.scoring import ScoringOptions
from workers.algorithms import ALGORITHMS
from workers.algorithms.base import Algorithm
from workers.graders.local.reward import RewardScorer
from workers.graders.local.shelf import Shelf
from workers.graders.rubric import CategoryGrader, Desk, RubricGrader
from workers.policy.causal import CausalPolicy
from workers.policy.loading import ModelFiles, Reading, load_policy, read_reading
from workers.policy.reward import RewardPolicy
from workers.prompts import read_prompt
from workers.revisions.job import JobRevisions
from workers.rows import read_demonstrations, read_preferences
from workers.seeds import derive_seed
from workers.stored import Stored, StoredRollouts, read_stored
from workers.trained import Plan, Trained, load_trained
from workers.training.appraisal import Appraisal
from workers.training.checkpoint import read_trainer_state
from workers.training.demonstration_evaluation import DemonstrationEvaluation
from workers.training.environment import Rollouts, TrainingEnvironment
from workers.training.evaluation import Evaluation
from workers.training.loop import Run
from workers.training.pair_evaluation import PairEvaluation, split_held_out
from workers.training.ports import Control, Recorder
from workers.training.rounds import Rounds
from workers.training.state import TrainerState
from workers.training.team import Team
from workers.types import CompletionGroup, Prompt

Rows = Iterable[tuple[int, dict[str, Any]]]


@dataclass(slots=True)
class Materials:
    """What the child hands in: rows by name, model files, desks for judged cells, and the ports of the loop."""

    spec: JobSpec
    resolved: dict[str, Any]
    steps: int
    files: ModelFiles
    model_files: Callable[[str], ModelFiles]
    rows: Callable[[str], Rows]
    desk: Callable[[str], Desk]
    recorder: Recorder
    control: Control
    resume: Path | None
    save: Callable[[CausalPolicy, Any, TrainerState], None]
    finalizing: Callable[[], None]
    stored: Callable[[dict[str, Any]], Stored]
    job_id: str = ""
    team: Team | None = None
    """The processes that train together, where there are several."""


def assemble(materials: Materials) -> Run:
    """Load, check, wire."""
    spec, state = materials.spec, TrainerState()
    if materials.resume is not None:
        state = read_trainer_state(materials.resume)
    algorithm = ALGORITHMS[spec.algorithm.type](spec)
    # Rows are read before any weight is: what is wrong with them is told at once.
    reading = read_reading(materials.files)
    scorer = _scorer(materials)
    environment = TrainingEnvironment(
        spec, state, materials.recorder, steps=materials.steps, check=materials.control.check
    )
    grader = _grader(materials, "rubric", scorer) if samples(spec.algorithm) else None
    stored: list[CompletionGroup] | None = None
    if grader is not None:
        if "stored" in materials.resolved:
            stored = read_stored(materials.stored(materials.resolved["stored"]), reading, grader)
            environment.prompts = [group.prompt for group in stored]
        else:
            environment.prompts = _prompts(materials, "prompts", reading, grader)
        environment.aggregations = {name: own.aggregation for name, own in grader.graders.items()}
        # The watch is over whole steps, in which rubrics are mixed: the strictest author's wish holds.
        environment.max_null_share = min(a.max_null_share or 0.0 for a in environment.aggregations.values())
    elif spec.data.demonstrations is not None:
        environment.demonstrations = read_demonstrations(
            _dataset(materials, "demonstrations"), materials.rows("demonstrations"), reading, spec.algorithm
        )
    elif spec.data.preferences is not None:
        environment.preferences = read_preferences(
            _dataset(materials, "preferences"), materials.rows("preferences"), reading
        )
    evaluation: Evaluation | Appraisal | None = _evaluation(materials, reading, scorer)
    _load_reward_models(materials, scorer)
    trained = _trained(materials, algorithm)
    policy, optimizer = trained.policy, trained.optimizer
    if grader is not None:
        environment.rollouts = (
            _cut_rollouts(materials, policy, grader)
            if stored is None
            else StoredRollouts(stored, grader, materials.control)
        )
    revisions = _revisions(materials, reading, scorer, policy)
    environment.revisions = revisions
    if isinstance(evaluation, Evaluation):
        evaluation.rollouts.policy = policy
        if isinstance(spec.algorithm, EvaluateConfig):
            evaluation.revisions = revisions
            evaluation = _appraisal(materials, scorer, evaluation)
    held_out: DemonstrationEvaluation | PairEvaluation | None = None
    if spec.evaluation is not None and spec.evaluation.rows is not None:
        held_out = _held_out(materials, reading, policy, algorithm, environment)
    elif isinstance(spec.algorithm, RewardModelConfig):
        held_out = _split_off(materials, policy, algorithm, environment, spec.algorithm)
    run = Run(
        spec=spec,
        steps=materials.steps,
        algorithm=algorithm,
        policy=policy,
        optimizer=optimizer,
        environment=environment,
        evaluation=evaluation,
        held_out=held_out,
        state=state,
        recorder=materials.recorder,
        control=materials.control,
        save=lambda now: materials.save(policy, optimizer, now),
        rounds=Rounds.of(spec, algorithm, policy, optimizer),
        finalizing=materials.finalizing,
    )
    _warn(materials)
    return run


def _trained(materials: Materials, algorithm: Algorithm) -> Trained:
    """The model that is trained or sampled, with its optimizer: here, or here and in the team's other processes."""
    plan = Plan(materials.spec, materials.files, materials.resume)
    if materials.team is not None:
        materials.team.tell({"do": "build", **plan.to_json()})
    trained = load_trained(plan, algorithm, materials.team)
    if packs(materials.spec.algorithm) and not trained.policy.packs:
        message = (
            "this model does not keep packed examples apart, so each is run in a row of its own: slower, and as right"
        )
        materials.recorder.event("job.warning", {"code": "not_packed", "message": message})
    return trained


def _dataset(materials: Materials, data: str) -> str:
    return str(materials.resolved["data"][data]["dataset"])


def _scorer(materials: Materials) -> RewardScorer:
    """Who asks the reward models of the rubrics."""
    pinned: dict[str, dict[str, Any]] = materials.resolved.get("models", {})

    def constants(model_id: str) -> Normalisation:
        known = pinned[model_id]["normalisation"]
        return UNNORMALISED if known is None else Normalisation.model_validate(known)

    return RewardScorer(cache(materials.model_files), constants, Shelf())


def _load_reward_models(materials: Materials, scorer: RewardScorer) -> None:
    """Now, so that one that cannot be used ends the job before it begins."""
    pinned: dict[str, dict[str, Any]] = materials.resolved.get("models", {})
    for model_id, model in pinned.items():
        if model["kind"] == "reward":
            scorer.load(model_id)
            if model["normalisation"] is None:
                data = {"code": "no_normalisation", "model": model_id, "message": UNNORMALISED_WARNING}
                materials.recorder.event("job.warning", data)


def _warn(materials: Materials) -> None:
    """Tell once what is allowed and probably unwise."""
    config = materials.spec.algorithm
    if (
        materials.resume is None
        and isinstance(config, OnPolicyConfig)
        and config.objective.step_credit == "deepseek_sum"
    ):
        message = (
            "step_credit 'deepseek_sum' adds up over steps without a bound, so that padding an answer with trivially good steps "
            "pays; 'to_go' gives the same at the first step and is bounded by the criterion's share"
        )
        materials.recorder.event("job.warning", {"code": "unbounded_step_credit", "message": message})


def _grader(materials: Materials, field: str, scorer: RewardScorer) -> CategoryGrader:
    """Who grades: a version of a rubric for each category (`field` of what the job has resolved to)."""
    pinned = PinnedRubrics.of(materials.resolved, field)
    assert pinned is not None
    graders = {name: _by_rubric(materials, name, version, scorer) for name, version in pinned.versions.items()}
    return CategoryGrader(pinned, graders)


def _by_rubric(materials: Materials, name: str, version: dict[str, Any], scorer: RewardScorer) -> RubricGrader:
    content = RubricContent.model_validate(version["content"])
    aggregation = content.aggregation.over(DEFAULT_AGGREGATION)
    if "aggregation" in version:
        aggregation = Aggregation.model_validate(version["aggregation"])
    elif isinstance(materials.spec.algorithm, OnPolicyConfig | EvaluateConfig):  # a job of the first release
        aggregation = materials.spec.algorithm.aggregation.over(aggregation)
    return RubricGrader(
        content,
        name,
        materials.desk(name),
        aggregation,
        materials.resolved.get("judge_votes", {}),
        scorer=scorer,
        local_judges=materials.resolved.get("local_judges", {}),
        calibrator=Calibrator.of(materials.resolved, content),
    )


def _rollouts(materials: Materials, policy: Any, grader: CategoryGrader) -> Rollouts:
    spec = materials.spec
    return Rollouts(policy, grader, materials.control, spec.training.seed, spec.rollout.max_completion_tokens)


def _revisions(materials: Materials, reading: Reading, scorer: RewardScorer, policy: Any) -> JobRevisions | None:
    """Who revises what the job samples, if it asks for that."""
    spec, resolved = materials.spec, materials.resolved
    config = getattr(spec.algorithm, "revision", None)
    if config is None:
        return None
    temperature = spec.rollout.temperature
    assert temperature is not None
    return JobRevisions(
        config=config,
        grader=_grader(materials, "revision_rubric", scorer),
        desk=materials.desk(next(iter(resolved["revision_rubric"].values()))),
        recorder=materials.recorder,
        control=materials.control,
        policy=policy,
        reading=reading,
        model=spec.policy.model,
        job=materials.job_id,
        judges=resolved["judges"],
        local_judges=resolved.get("local_judges", {}),
        votes=resolved.get("judge_votes", {}),
        seed=spec.training.seed,
        temperature=temperature,
        max_completion_tokens=spec.rollout.max_completion_tokens,
    )


def _cut_rollouts(materials: Materials, policy: Any, grader: CategoryGrader) -> Rollouts:
    """The same for what `rollout` is about; held-out evaluations are sampled whole."""
    rollout = materials.spec.rollout
    return replace(_rollouts(materials, policy, grader), top_p=rollout.top_p, top_k=rollout.top_k)


def _evaluation(
    materials: Materials, reading: Reading, scorer: RewardScorer, purpose: str = "evaluation"
) -> Evaluation | None:
    """Held-out evaluation of a training job; for an `evaluate` job, the whole of it. The policy is put in once it is loaded."""
    spec = materials.spec
    if isinstance(spec.algorithm, EvaluateConfig):
        assert spec.rollout.temperature is not None
        assert spec.rollout.group_size is not None
        rubric, data, every = "rubric", "prompts", None
        temperature, samples = spec.rollout.temperature, spec.rollout.group_size
    elif spec.evaluation is not None and spec.evaluation.prompts is not None:
        rubric, data, every = "evaluation_rubric", "evaluation", spec.evaluation.every_steps
        temperature, samples = spec.evaluation.temperature, spec.evaluation.samples
    else:
        return None
    grader = _grader(materials, rubric, scorer)
    sampled = _cut_rollouts if isinstance(spec.algorithm, EvaluateConfig) else _rollouts
    shown: dict[str, ScoringOptions] = {}  # else uniform weights, which every criterion allows
    if isinstance(spec.algorithm, EvaluateConfig):
        shown = {name: scoring_options(own.aggregation) for name, own in grader.graders.items()}
    return Evaluation(
        rollouts=sampled(materials, None, grader),
        recorder=materials.recorder,
        prompts=_prompts(materials, data, reading, grader),
        temperature=temperature,
        samples=samples,
        every_steps=every,
        purpose=purpose,
        options=shown,
    )


def _appraisal(materials: Materials, scorer: RewardScorer, own: Evaluation) -> Appraisal:
    """The evaluation of an `evaluate` job, with the model that its policy is compared to."""
    resolved, training = materials.resolved, materials.spec.training
    found = Appraisal(own, materials.recorder, derive_seed(training.seed, "scorecard"))
    if "compare_to" in resolved:
        files = materials.model_files(resolved["compare_to"]["model"])
        found.other = _evaluation(materials, read_reading(files), scorer, "comparison")
        found.named = {name: resolved[name] for name in ("policy", "compare_to")}
        assert found.other is not None
        found.other.rollouts.policy = load_policy(
            files,
            adapter=None,
            precision=training.precision,
            budget=training.microbatch_tokens,
            seed=training.seed,
            reference=False,
        )
    return found


def _prompts(materials: Materials, data: str, reading: Reading, grader: CategoryGrader) -> list[Prompt]:
    """Every prompt of a snapshot, tokenised under its rubric's system prompt and checked."""
    dataset = _dataset(materials, data)
    # What the job's options allow is asked of the prompts that they are for, not of those that are held out.
    config = materials.spec.algorithm if data == "prompts" else None
    longest = materials.spec.rollout.max_completion_tokens
    rows = ((f"{dataset}:{seq}", content) for seq, content in materials.rows(data))
    return [read_prompt(row_id, content, reading, grader, config=config, longest=longest) for row_id, content in rows]


def _held_out(
    materials: Materials, reading: Reading, policy: Any, algorithm: Any, environment: TrainingEnvironment
) -> DemonstrationEvaluation | PairEvaluation:
    """The held-out rows that the job names."""
    spec = materials.spec
    assert spec.evaluation is not None
    dataset, rows, every = _dataset(materials, "held_out"), materials.rows("held_out"), spec.evaluation.every_steps
    if spec.evaluation.rows == "demonstrations":
        read = read_demonstrations(dataset, rows, reading, spec.algorithm)
        return DemonstrationEvaluation(policy, materials.recorder, materials.control, read, every)
    return PairEvaluation(
        policy, algorithm, environment, materials.recorder, materials.control,
        pairs=read_preferences(dataset, rows, reading),
        every_steps=every,
        scales=isinstance(spec.algorithm, RewardModelConfig),
    )  # fmt: skip


def _split_off(
    materials: Materials,
    policy: RewardPolicy,
    algorithm: Any,
    environment: TrainingEnvironment,
    config: RewardModelConfig,
) -> PairEvaluation:
    """Take the held-out pairs away from what is trained on."""
    pairs = environment.preferences
    seed = materials.spec.training.seed
    assert config.held_out is not None
    environment.preferences, held = split_held_out(pairs, config.held_out, seed)
    if not environment.preferences:
        raise JobFailure(
            "data_invalid",
            f"the {len(pairs)} pairs share one prompt, so none can be held out; add pairs of other prompts",
        )
    return PairEvaluation(
        policy, algorithm, environment, materials.recorder, materials.control, held, config.evaluate_every_steps
    )
