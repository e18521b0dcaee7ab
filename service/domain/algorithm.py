"""One config class per algorithm, torch-free, so that a POST is validated without the trainers.

The workers hold the other end: `workers.algorithms.ALGORITHMS` maps the same names to code, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from service.domain.base import Loc, Value, refuse
from service.domain.objective import (
    KlConfig,
    ObjectiveConfig,
    PolicyGradientConfig,
    WithoutSignalConfig,
    with_preset,
)
from service.domain.policy_gradient import PpoConfig, ReinforceConfig, TrpoConfig
from service.domain.preference import DpoConfig, RewardModelConfig
from service.domain.rejection import RejectionSamplingConfig
from service.domain.revision import RevisionConfig, refuse_group_use
from service.domain.rubric import DEFAULT_AGGREGATION, Aggregation
from service.domain.scoring import OVERLONG, CriterionWeight, Mismatch, ScoringOptions, mismatches

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class AdvantageConfig(Value):
    """How a reward becomes an advantage (grape.md §5)."""

    baseline: Literal["group_mean", "leave_one_out", "none"] = "group_mean"
    scale: Literal["group_std", "batch_std", "none"] = "group_std"
    scale_eps: NotNegative = 0.0
    level: Literal["reward", "criterion"] = "reward"
    noise_aware: bool = False


class SftConfig(Value):
    """Supervised fine-tuning by cross-entropy.

    `loss_on`: `completion` learns the last answer of a row, `assistant` every turn of the assistant in a conversation. `packing`
    runs several demonstrations in one row, which changes the speed and nothing that is learned.
    """

    data_kind: ClassVar[str] = "demonstrations"

    type: Literal["sft"]
    loss_on: Literal["completion", "assistant"] = "completion"
    packing: bool = True


class OnPolicyConfig(PolicyGradientConfig):
    """What `grape` and `grpo` share. `entropy_coef` times the mean entropy of the policy's tokens is taken off the loss.

    A rollout serves `inner_epochs` × `minibatches` optimizer steps: each epoch goes through its groups in `minibatches` parts.
    `rounds` above 1: `training.steps` are spread over that many rounds (grape.md §7); after each, held-out prompts are
    evaluated, the reference is refreshed, and `on_regression` says what happens if plain reward got worse. `preset` fills in
    fields that are left open (`PRESETS`).
    """

    compares: ClassVar[bool] = True

    aggregation: Aggregation = Aggregation()
    advantage: AdvantageConfig = AdvantageConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    kl: KlConfig = KlConfig()
    without_signal: WithoutSignalConfig = WithoutSignalConfig()
    inner_epochs: Annotated[int, Field(ge=1, le=64)] = 1
    minibatches: Annotated[int, Field(ge=1, le=1024)] = 1
    entropy_coef: Annotated[float, Field(ge=0, le=10)] = 0.0
    rounds: Annotated[int, Field(ge=1, le=1000)] = 1
    on_regression: Literal["stop", "continue", "roll_back"] = "stop"
    preset: Literal["gspo", "dapo", "dr_grpo"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, body: Any) -> Any:
        return with_preset(body)

    @model_validator(mode="after")
    def _fits_itself(self) -> OnPolicyConfig:
        problems: list[tuple[Loc, str, str]] = [(m.place, "invalid_option", m.message) for m in option_mismatches(self)]
        if self.kl.placement == "reward":
            message = (
                "a divergence in the reward would make advantages that the stored cells do not explain; grape and grpo take it in "
                "the 'loss' (reinforce and ppo know both)"
            )
            problems.append((("kl", "placement"), "invalid_option", message))
        if self.revision is not None and "group" in self.revision.uses:
            problems += list(self._of_revisions(self.revision.uses.index("group")))
        if problems:
            refuse(*problems)
        return self

    def _of_revisions(self, position: int) -> Iterator[tuple[Loc, str, str]]:
        """What a revision in the update does not go with: its advantage is (R − mean of the members)/std."""
        place: Loc = ("revision", "uses", position)
        if self.advantage.baseline == "none":
            yield (
                place,
                "invalid_option",
                "'group' compares a revision with its group's mean; take another advantage.baseline",
            )
        if self.advantage.level == "criterion":
            yield (
                place,
                "invalid_option",
                "'group' needs rewards, which advantage.level 'criterion' does not have; take 'reward'",
            )
        if self.truncated.mode == "penalty":
            yield (
                place,
                "invalid_option",
                "'group' knows no penalty on length; mask truncated completions, or leave it out",
            )


class GrapeConfig(OnPolicyConfig):
    """Confidence-weighted rubric rewards, relative to the group (grape.md)."""

    type: Literal["grape"]


class GrpoConfig(OnPolicyConfig):
    """The same with the author's weights: confidence plays no part."""

    type: Literal["grpo"]

    @model_validator(mode="after")
    def _uniform(self) -> GrpoConfig:
        if self.aggregation.weighting not in (None, "uniform"):
            refuse(
                (
                    ("aggregation", "weighting"),
                    "invalid_option",
                    "grpo weights uniformly; use the algorithm type 'grape' to weight by confidence",
                )
            )
        return self


class ComparedModel(Value):
    """The other model of a comparison."""

    model: Annotated[str, Field(pattern=r"^mdl_[0-9a-z]+$")]


class EvaluateConfig(Value):
    """Samples a policy and reports plain reward, in all, by criterion and by category; trains nothing.

    `aggregation` is for the rewards beside it. `compare_to`: a model that is sampled on the same prompts with the same seeds.
    """

    type: Literal["evaluate"]
    aggregation: Aggregation = Aggregation()
    compare_to: ComparedModel | None = None
    revision: RevisionConfig | None = None

    @model_validator(mode="after")
    def _no_update(self) -> EvaluateConfig:
        refuse_group_use(self.revision)
        return self


AlgorithmConfig = Annotated[
    SftConfig
    | RejectionSamplingConfig
    | DpoConfig
    | RewardModelConfig
    | ReinforceConfig
    | TrpoConfig
    | PpoConfig
    | GrapeConfig
    | GrpoConfig
    | EvaluateConfig,
    Field(discriminator="type"),
]

ALGORITHM_CONFIGS: dict[str, type[Value]] = {
    "sft": SftConfig,
    "rejection_sampling": RejectionSamplingConfig,
    "dpo": DpoConfig,
    "reward_model": RewardModelConfig,
    "reinforce": ReinforceConfig,
    "trpo": TrpoConfig,
    "ppo": PpoConfig,
    "grape": GrapeConfig,
    "grpo": GrpoConfig,
    "evaluate": EvaluateConfig,
}


def scoring_options(aggregation: Aggregation, advantage: AdvantageConfig | None = None) -> ScoringOptions:
    """The options of the arithmetic; what is absent takes its default. The first step's exponent, if it moves."""
    given = aggregation.over(DEFAULT_AGGREGATION).model_dump()
    given.update((advantage or AdvantageConfig()).model_dump())
    return ScoringOptions(**{f.name: given[f.name] for f in fields(ScoringOptions)})


def option_mismatches(
    config: OnPolicyConfig | EvaluateConfig, criteria: Sequence[CriterionWeight] = ()
) -> list[Mismatch]:
    """What does not go together in a job, by its place below `algorithm`; the rubric's part needs its criteria."""
    advantage = config.advantage if isinstance(config, OnPolicyConfig) else None
    found = list(mismatches(scoring_options(config.aggregation, advantage), criteria))
    if not isinstance(config, OnPolicyConfig):
        return found
    if config.truncated.mode == "penalty":
        if config.advantage.level == "criterion":
            message = (
                "level 'criterion' has no reward that a penalty could be taken off; use 'reward', or mask completions"
            )
            found.append(Mismatch(("advantage", "level"), message))
        if any(c.key == OVERLONG and not c.audit for c in criteria):
            message = f"the penalty's part of an advantage is called '{OVERLONG}'; give the criterion '{OVERLONG}' another key"
            found.append(Mismatch(("truncated", "mode"), message))
    if config.aggregation.weighting == "healthbench":
        message = (
            "'healthbench' is a benchmark's score, for evaluate jobs and gradings; train with 'confidence' or 'uniform'"
        )
        found.insert(0, Mismatch(("aggregation", "weighting"), message))
    return found


def data_kind(config: Any) -> str:
    """The kind of dataset that the algorithm reads: `prompts`, unless its config says otherwise."""
    return getattr(config, "data_kind", "prompts")


def is_epochwise(config: Any) -> bool:
    """Whether it walks over rows that are there already, in batches: then `epochs` may stand in place of `steps`."""
    return data_kind(config) != "prompts"


def samples(config: Any) -> bool:
    """Whether it trains on completions that it samples itself."""
    return bool(getattr(config, "samples", False))


def compares(config: Any) -> bool:
    """Whether it learns from comparing the completions of a group, so that one alone teaches nothing."""
    return bool(getattr(config, "compares", False)) or getattr(config, "baseline", None) == "leave_one_out"


def packs(config: Any) -> bool:
    """Whether it runs several demonstrations in one row, where the model allows it."""
    return isinstance(config, RejectionSamplingConfig) or (isinstance(config, SftConfig) and config.packing)


def is_batched(config: Any) -> bool:
    """Whether `training.batch_size` rows make an optimizer step."""
    return bool(getattr(config, "batched", is_epochwise(config)))
