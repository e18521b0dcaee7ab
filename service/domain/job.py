"""A job's specification: what is trained, on what, how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, JsonValue, StringConstraints, Tag, model_validator

from service.domain.algorithm import (
    AlgorithmConfig,
    EvaluateConfig,
    OnPolicyConfig,
    compares,
    data_kind,
    is_batched,
    is_epochwise,
    samples,
)
from service.domain.base import Value, refuse
from service.domain.conversation import Name
from service.domain.objective import PolicyGradientConfig
from service.domain.pinned import ANY_CATEGORY
from service.domain.policy_gradient import TrpoConfig
from service.domain.preference import RewardModelConfig
from service.domain.resources import ResourceSpec
from service.domain.rubric import RubricRef
from service.domain.schedule import ScheduleSpec
from service.domain.spending import JudgeBudget

ModelId = Annotated[str, StringConstraints(pattern=r"^mdl_[0-9a-z]+$")]
DatasetId = Annotated[str, StringConstraints(pattern=r"^ds_[0-9a-z]+$")]
Steps = Annotated[int, Field(ge=1, le=10_000_000)]


def _one_or_map(value: Any) -> str:
    """Which branch of `Rubrics` is meant: a map's values are references themselves. The tags are passed over in pointers."""
    if isinstance(value, dict) and any(isinstance(item, dict | RubricRef) for item in value.values()):
        return "map[category]"
    return "one[rubric]"


Rubrics = Annotated[
    Annotated[RubricRef, Tag("one[rubric]")] | Annotated[dict[Name, RubricRef], Tag("map[category]")],
    Discriminator(_one_or_map),
]
"""One rubric for every prompt, or one for each category, `*` for all others."""


def by_category(rubrics: RubricRef | Mapping[str, RubricRef]) -> Mapping[str, RubricRef]:
    """The map that both ways of writing mean."""
    return {ANY_CATEGORY: rubrics} if isinstance(rubrics, RubricRef) else rubrics


class PolicySpec(Value):
    """The model that is trained or sampled."""

    model: ModelId


class LoraSpec(Value):
    """Low-rank adapters instead of full fine-tuning."""

    type: Literal["lora"]
    r: Annotated[int, Field(ge=1, le=1024)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32
    dropout: Annotated[float, Field(ge=0, le=0)] = 0.0
    target_modules: Literal["all-linear"] | Annotated[list[Name], Field(min_length=1)] = "all-linear"


class DataSpec(Value):
    """The datasets that the algorithm reads."""

    demonstrations: DatasetId | None = None
    preferences: DatasetId | None = None
    prompts: DatasetId | None = None


class RolloutSpec(Value):
    """How completions are sampled. Absent fields take the algorithm's default.

    `top_p` and `top_k` cut the distribution and renormalise it (only the likeliest tokens that hold so much probability, or so
    many), for `evaluate` and `rejection_sampling`.
    """

    group_size: Annotated[int, Field(ge=1, le=1024)] | None = None
    prompts_per_step: Annotated[int, Field(ge=1, le=4096)] = 8
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    max_staleness: Literal[0] = 0
    engine: Literal["native"] = "native"


class TrainingSpec(ScheduleSpec):
    """The optimizer's schedule. `steps` are optimizer steps; supervised algorithms may say `epochs` instead.

    `on_nonfinite` and `on_empty_batch` say what a step does whose loss or gradient is not finite, or in which no token counts: it
    stops the job, or it is skipped, which changes no weight and no moment, and is told in the events. Ten such steps in a row
    always stop it. `microbatch_tokens`: a step is worked through in pieces of at most so many tokens; absent: what suits the device.
    """

    steps: Steps | None = None
    epochs: Annotated[float, Field(gt=0, le=10_000)] | None = None
    batch_size: Annotated[int, Field(ge=1, le=65_536)] | None = None
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    on_nonfinite: Literal["stop", "skip"] = "stop"
    on_empty_batch: Literal["skip", "stop"] = "skip"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    microbatch_tokens: Annotated[int, Field(ge=64, le=10_000_000)] | None = None


class EvaluationSpec(Value):
    """What is measured at step 0, every `every_steps` and at the end, on data that is held out.

    `prompts` are sampled (greedily at temperature 0) and graded by `rubric` or the job's. `demonstrations` (of `sft`) and `preferences`
    (of `dpo` and `reward_model`, in place of its own split) give the held-out loss of the algorithm itself. Which two go with which
    algorithm is checked; `prompts` and one of them may stand together.

    `on_regression: stop` ends the job, with its checkpoints kept, once it is worse than at the best evaluation before: the paired 95 %
    interval of plain reward by prompt, or without prompts of the loss by row, lies on the wrong side of 0. Jobs of several rounds
    have `algorithm.on_regression` for that.
    """

    prompts: DatasetId | None = None
    demonstrations: DatasetId | None = None
    preferences: DatasetId | None = None
    every_steps: Steps | None = None
    rubric: Rubrics | None = None
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.0
    samples: Annotated[int, Field(ge=1, le=256)] = 1
    on_regression: Literal["continue", "stop"] = "continue"

    @property
    def rows(self) -> str | None:
        """The kind of rows that give a held-out loss; null: none do."""
        return next((kind for kind in ("demonstrations", "preferences") if getattr(self, kind) is not None), None)


class CheckpointSpec(Value):
    """A checkpoint every so many steps and at the last one; the newest `keep` stay, and the best one.

    `on_checkpoint_error` says what happens when one cannot be written (a full disk): the job fails as `storage_full`, or goes on
    and says so in an event. The last one, which is the result, has to be written in either case.
    """

    every_steps: Steps | None = None
    keep: Annotated[int, Field(ge=1, le=1000)] = 3
    on_checkpoint_error: Literal["stop", "continue"] = "stop"


class JobSpec(Value):
    """What is POSTed to `/v1/jobs`."""

    name: Name = "job"
    algorithm: AlgorithmConfig
    policy: PolicySpec
    adapter: LoraSpec | None = None
    data: DataSpec = DataSpec()
    rubric: Rubrics | None = None
    rollout: RolloutSpec = RolloutSpec()
    training: TrainingSpec = TrainingSpec()
    evaluation: EvaluationSpec | None = None
    checkpoints: CheckpointSpec = CheckpointSpec()
    resources: ResourceSpec = ResourceSpec()
    limits: JudgeBudget = JudgeBudget()
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    metadata: dict[Annotated[str, StringConstraints(max_length=64)], JsonValue] = {}

    @model_validator(mode="after")
    def _fits_its_algorithm(self) -> JobSpec:
        problems = list(_problems(self))
        if problems:
            refuse(*problems)
        return self


def _problems(spec: JobSpec) -> Any:
    kind = spec.algorithm.type
    yield from _of_data(spec)
    if is_epochwise(spec.algorithm):
        if spec.training.steps is not None and spec.training.epochs is not None:
            yield ("training", "epochs"), "one_of", "give either 'steps' or 'epochs'"
    else:
        if spec.rubric is None:
            yield ("rubric",), "missing", f"{kind} needs a rubric that says what good is"
        if spec.training.epochs is not None:
            yield ("training", "epochs"), "invalid_option", f"{kind} counts steps, not epochs"
        if spec.training.batch_size is not None and not is_batched(spec.algorithm):
            yield ("training", "batch_size"), "invalid_option", f"{kind} takes rollout.prompts_per_step and group_size"
    if samples(spec.algorithm):
        if spec.training.steps is None:
            yield ("training", "steps"), "missing", f"{kind} needs a number of steps"
        if spec.rollout.group_size == 1 and compares(spec.algorithm):
            yield (
                ("rollout", "group_size"),
                "invalid_option",
                f"{kind} compares completions of a group; take at least 2",
            )
        if spec.rollout.temperature == 0:
            yield (
                ("rollout", "temperature"),
                "invalid_option",
                f"{kind} needs a temperature above 0: equal completions teach nothing",
            )
    for name in _cuts(spec.rollout):
        if isinstance(spec.algorithm, PolicyGradientConfig):
            message = (
                f"{kind} compares probabilities of the full softmax, and samples cut by '{name}' have others; leave it out "
                "(it is for evaluate and rejection_sampling)"
            )
            yield ("rollout", name), "invalid_option", message
        elif resolved(spec).rollout.temperature == 0:
            yield ("rollout", name), "invalid_option", f"greedy decoding knows no '{name}'; give a temperature above 0"
    if isinstance(spec.algorithm, EvaluateConfig):
        if spec.adapter is not None:
            yield ("adapter",), "invalid_option", "evaluate trains nothing, so it takes no adapter"
        if spec.evaluation is not None:
            yield (
                ("evaluation",),
                "invalid_option",
                "evaluate samples data.prompts by rollout; 'evaluation' belongs to training jobs",
            )
        if spec.training.steps is not None:
            yield ("training", "steps"), "invalid_option", "evaluate trains nothing, so it takes no steps"
    yield from _schedule_problems(spec)
    yield from _of_policy_gradients(spec)
    yield from _of_evaluation(spec)
    if spec.resources.processes > 1:
        yield from _of_several_processes(spec)


def _of_evaluation(spec: JobSpec) -> Any:
    """Which held-out data goes with the algorithm, and what is only said of prompts."""
    kind, held_out = spec.algorithm.type, spec.evaluation
    if spec.limits.bounded and spec.rubric is None and (held_out is None or held_out.prompts is None):
        message = "without a rubric or an evaluation of prompts no judge is asked; leave 'limits' out"
        yield ("limits",), "invalid_option", message
    if held_out is None or isinstance(spec.algorithm, EvaluateConfig):
        return
    wanted = data_kind(spec.algorithm)
    named = [name for name in DataSpec.model_fields if getattr(held_out, name) is not None]
    fitting = [] if wanted == "prompts" else [wanted]
    if isinstance(spec.algorithm, RewardModelConfig):
        if held_out.prompts is not None:
            message = "a reward model samples nothing; it is measured on held-out pairs: name 'preferences', or algorithm.held_out"
            yield ("evaluation", "prompts"), "invalid_option", message
        for name in ("held_out", "evaluate_every_steps"):
            if held_out.preferences is not None and getattr(spec.algorithm, name) is not None:
                message = f"'evaluation' says what is held out and how often it is measured; leave '{name}' out, or evaluation.preferences"
                yield ("algorithm", name), "invalid_option", message
    else:
        fitting = ["prompts", *fitting]
    for name in named:
        if name not in fitting and name != "prompts":
            message = f"{kind} is evaluated on {' or '.join(fitting)}, not on {name}"
            yield ("evaluation", name), "invalid_option", message
        elif name != "prompts" and getattr(held_out, name) == getattr(spec.data, name):
            message = f"these {name} are the ones that are trained on; hold out others"
            yield ("evaluation", name), "invalid_option", message
    if not named:
        yield ("evaluation", fitting[0]), "missing", f"say what is held out: {' or '.join(fitting)}"
    elif held_out.prompts is not None and held_out.rubric is None and spec.rubric is None:
        yield ("evaluation", "rubric"), "missing", "an evaluation of prompts needs a rubric"
    if held_out.prompts is None and named:
        for name, given in (
            ("rubric", held_out.rubric is not None),
            ("temperature", held_out.temperature > 0),
            ("samples", held_out.samples > 1),
        ):
            if given:
                message = f"'{name}' is for prompts, which are sampled and graded; there are none"
                yield ("evaluation", name), "invalid_option", message


def _of_data(spec: JobSpec) -> Any:
    kind = spec.algorithm.type
    wanted = data_kind(spec.algorithm)
    stored = getattr(spec.algorithm, "stored", None) is not None
    for name in DataSpec.model_fields:
        if stored and getattr(spec.data, name) is not None:
            message = "stored completions bring their prompts along; leave the data out, or algorithm.stored"
            yield ("data", name), "invalid_option", message
        elif stored:
            continue
        elif name == wanted and getattr(spec.data, name) is None:
            reads = "samples" if name == "prompts" else "learns from"
            yield ("data", name), "missing", f"{kind} {reads} {name}; name a dataset of that kind"
        elif name != wanted and getattr(spec.data, name) is not None:
            yield ("data", name), "invalid_option", f"{kind} reads {wanted}, not {name}"


def _of_several_processes(spec: JobSpec) -> Any:
    """What is done in one process, and steps that are too small to be shared out."""
    place, kind, count = ("resources", "processes"), spec.algorithm.type, spec.resources.processes
    if isinstance(spec.algorithm, EvaluateConfig):
        yield place, "invalid_option", "evaluate trains nothing that several processes could share; leave it at 1"
        return
    if isinstance(spec.algorithm, TrpoConfig):
        yield place, "invalid_option", "trpo's second derivatives need all weights in one process; leave it at 1"
    if isinstance(spec.algorithm, OnPolicyConfig) and spec.algorithm.rounds > 1:
        message = (
            f"{kind} keeps whole copies of the weights between rounds, in one process; leave it at 1, or rounds at 1"
        )
        yield place, "invalid_option", message
    if getattr(spec.algorithm, "revision", None) is not None:
        yield (
            place,
            "invalid_option",
            "algorithm.revision samples in one process; leave it at 1, or revise on stored completions",
        )
    filled = resolved(spec)
    if is_batched(spec.algorithm):
        rows, said = filled.training.batch_size or 1, "training.batch_size"
    else:
        rows = (filled.rollout.group_size or 1) * filled.rollout.prompts_per_step
        said = "rollout.prompts_per_step times group_size"
    if rows < count:
        message = f"a step of {rows} sequences ({said}) cannot be shared by {count} processes; ask for at most {rows}"
        yield place, "invalid_option", message


def _schedule_problems(spec: JobSpec) -> Any:
    training = spec.training
    for place, code, message in training.problems(training.steps):
        yield ("training", *place), code, message
    of_rounds = isinstance(spec.algorithm, OnPolicyConfig) and spec.algorithm.rounds > 1
    if of_rounds and spec.evaluation is not None and spec.evaluation.on_regression == "stop":
        message = "what a worse round does is said by algorithm.on_regression; leave this at 'continue'"
        yield ("evaluation", "on_regression"), "invalid_option", message
    compared = getattr(spec.algorithm, "compare_to", None)
    if compared is not None and compared.model == spec.policy.model:
        message = "the policy is compared with itself; name another model"
        yield ("algorithm", "compare_to", "model"), "invalid_option", message


def _cuts(rollout: RolloutSpec) -> list[str]:
    return [name for name, given in (("top_p", rollout.top_p < 1), ("top_k", rollout.top_k is not None)) if given]


def _of_policy_gradients(spec: JobSpec) -> Any:
    """What does not go together where a policy steps along its own samples."""
    if isinstance(spec.algorithm, OnPolicyConfig) and spec.algorithm.rounds > 1 and spec.evaluation is None:
        message = (
            "rounds end with an evaluation: say in 'evaluation' which held-out prompts tell whether one made it worse"
        )
        yield ("evaluation",), "missing", message
    rounds = getattr(spec.algorithm, "rounds", 1)
    if (spec.training.steps or rounds) < rounds:
        yield ("algorithm", "rounds"), "invalid_option", f"{rounds} rounds need at least as many optimizer steps"
    if isinstance(spec.algorithm, PolicyGradientConfig):
        margin, limit = spec.algorithm.truncated.margin, spec.rollout.max_completion_tokens
        if margin is not None and margin > limit:
            message = f"a margin of {margin} tokens is more than rollout.max_completion_tokens {limit}"
            yield ("algorithm", "truncated", "margin"), "invalid_option", message
    if isinstance(spec.algorithm, OnPolicyConfig) and spec.algorithm.minibatches > spec.rollout.prompts_per_step:
        message = (
            f"minibatches are made of whole groups, and a step has {spec.rollout.prompts_per_step} "
            "(rollout.prompts_per_step); ask for at most as many minibatches"
        )
        yield ("algorithm", "minibatches"), "invalid_option", message
    if isinstance(spec.algorithm, TrpoConfig) and spec.training.learning_rate is not None:
        message = "trpo takes no learning rate: algorithm.max_kl is the size of its step"
        yield ("training", "learning_rate"), "invalid_option", message


DEFAULT_RATES = {"sft": 2e-5, "rejection_sampling": 2e-5, "reward_model": 1e-5}
"""Learning rates of full fine-tuning (1e-6 where nothing else is said); adapters take ten times as much."""
DEFAULT_HELD_OUT = 0.1
"""The share of a reward model's pairs that is held out where the job names no others."""


def resolved(spec: JobSpec) -> JobSpec:
    """The spec with the algorithm's defaults in the places that were left open."""
    evaluate = isinstance(spec.algorithm, EvaluateConfig)
    rollout = {
        "group_size": spec.rollout.group_size or (1 if evaluate else 8),
        "temperature": spec.rollout.temperature if spec.rollout.temperature is not None else (0.0 if evaluate else 1.0),
    }
    rate = DEFAULT_RATES.get(spec.algorithm.type, 1e-6) * (10 if spec.adapter else 1)
    takes_rate = not isinstance(spec.algorithm, TrpoConfig)
    training: dict[str, Any] = {"learning_rate": (spec.training.learning_rate or rate) if takes_rate else None}
    if is_batched(spec.algorithm):
        training["batch_size"] = spec.training.batch_size or 16
    if is_epochwise(spec.algorithm) and spec.training.steps is None:
        training["epochs"] = spec.training.epochs or 1.0
    algorithm = spec.algorithm
    if isinstance(algorithm, RewardModelConfig) and algorithm.held_out is None and spec.evaluation is None:
        algorithm = algorithm.model_copy(update={"held_out": DEFAULT_HELD_OUT})
    return spec.model_copy(
        update={
            "algorithm": algorithm,
            "rollout": spec.rollout.model_copy(update=rollout),
            "training": spec.training.model_copy(update=training),
        }
    )
