"""Whose options decide how cells become rewards: the job's over the author's over the defaults, rubric by rubric."""

from __future__ import annotations

from collections.abc import Mapping

from service.domain.algorithm import EvaluateConfig, GrpoConfig, OnPolicyConfig, option_mismatches
from service.domain.criteria import criterion_weights
from service.domain.grading import of_training
from service.domain.job import JobSpec
from service.domain.pinned import common
from service.domain.policy_gradient import PLAIN_FIELDS, PlainRewardConfig
from service.domain.rubric import DEFAULT_AGGREGATION, Aggregation, RubricContent
from service.errors import Invalid


def aggregations(spec: JobSpec, contents: Mapping[str, RubricContent]) -> dict[str, Aggregation]:
    """The options of each rubric in this job, complete."""
    return {name: _of(spec, content) for name, content in contents.items()}


def _of(spec: JobSpec, content: RubricContent) -> Aggregation:
    found = content.aggregation.over(DEFAULT_AGGREGATION)
    if isinstance(spec.algorithm, GrpoConfig | PlainRewardConfig):
        found = Aggregation(weighting="uniform").over(found)
    if isinstance(spec.algorithm, OnPolicyConfig | PlainRewardConfig | EvaluateConfig):
        return spec.algorithm.aggregation.over(found)
    return found


def with_aggregation(spec: JobSpec, trained: list[Aggregation]) -> JobSpec:
    """The spec with the options that its rubrics agree on, so that what is stored says what happened.

    Where authors differ and the job says nothing, the field stays null, and each rubric's own value stands beside it. Algorithms
    that train on plain rewards keep the fields that concern those.
    """
    if not isinstance(spec.algorithm, OnPolicyConfig | PlainRewardConfig | EvaluateConfig) or not trained:
        return spec
    agreed = common(trained)
    if isinstance(spec.algorithm, PlainRewardConfig):
        agreed = Aggregation.model_validate(agreed.model_dump(include=set(PLAIN_FIELDS)))
    return spec.model_copy(update={"algorithm": spec.algorithm.model_copy(update={"aggregation": agreed})})


def refuse_training_options(spec: JobSpec) -> None:
    """422 for what `evaluate` cannot have because it has no training steps; what an author says for training is passed over."""
    if not isinstance(spec.algorithm, EvaluateConfig):
        return
    faults = [
        {"pointer": f"/algorithm/{'/'.join(map(str, place))}", "code": code, "message": message}
        for place, code, message in of_training(spec.algorithm.aggregation, "an evaluate job")
        if place[-1] != "max_null_share"
    ]
    if faults:
        raise Invalid.of(faults)


def check_options(spec: JobSpec, aggregation: Aggregation, content: RubricContent, votes: Mapping[str, int]) -> None:
    """Refuse options that this rubric's criteria do not allow. `votes`: each judge's own number of votes."""
    if not isinstance(spec.algorithm, OnPolicyConfig | EvaluateConfig):
        return
    config = spec.algorithm.model_copy(update={"aggregation": aggregation})
    faults = [
        {"pointer": f"/algorithm/{'/'.join(m.place)}", "code": "invalid_option", "message": m.message}
        for m in option_mismatches(config, criterion_weights(content.criteria, votes))
    ]
    if faults:
        raise Invalid.of(faults)
