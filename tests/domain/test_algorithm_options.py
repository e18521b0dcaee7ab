"""A job's options: defaults, what is refused at the door, and what they become for the arithmetic."""

import pytest
from pydantic import ValidationError

from service.domain.algorithm import GrapeConfig, GrpoConfig, option_mismatches, scoring_options
from service.domain.criteria import criterion_weights
from service.domain.job import JobSpec
from service.domain.rubric import Aggregation, RubricContent
from service.domain.scoring import GateRule, ScoringOptions


def test_defaults_are_the_pages():
    """grape.md §4 and §5, api.md "A job"."""
    options = scoring_options(GrapeConfig(type="grape").aggregation, GrapeConfig(type="grape").advantage)
    assert options == ScoringOptions()
    assert (options.weighting, options.confidence_exponent, options.pooling) == ("confidence", 1.0, "group")
    assert (options.min_coverage, options.on_subject_null, options.max_weight_share) == (0.5, "impute", None)
    assert (options.baseline, options.scale, options.level) == ("group_mean", "group_std", "reward")
    config = GrapeConfig(type="grape")
    assert (config.entropy_coef, config.objective.step_credit, config.inner_epochs) == (0.0, "to_go", 1)


def test_every_option_reaches_the_arithmetic():
    aggregation = Aggregation(
        weighting="inverse_variance", confidence_exponent=2, pooling="shrunk", min_coverage=0.3,
        on_subject_null="lowest_observed", max_weight_share=0.6,
    )  # fmt: skip
    advantage = {"baseline": "leave_one_out", "scale": "batch_std", "scale_eps": 1e-4, "noise_aware": True}
    config = GrapeConfig(type="grape", aggregation=aggregation, advantage=advantage)
    assert scoring_options(config.aggregation, config.advantage) == ScoringOptions(
        "inverse_variance", 2, "shrunk", 0.3, "lowest_observed", 0.0, 0.6, "leave_one_out", "batch_std", 1e-4, "reward", True
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "body", "place"),
    [
        (GrapeConfig, {"advantage": {"level": "criterion", "noise_aware": True}}, ("advantage", "noise_aware")),
        (GrapeConfig, {"advantage": {"level": "criterion", "baseline": "none"}}, ("advantage", "baseline")),
        (GrapeConfig, {"aggregation": {"weighting": "healthbench"}}, ("aggregation", "weighting")),
        (GrpoConfig, {"aggregation": {"weighting": "confidence"}}, ("aggregation", "weighting")),
        (
            GrapeConfig,
            {"aggregation": {"weighting": "inverse_variance", "min_group_confidence": 0.5}},
            ("aggregation", "min_group_confidence"),
        ),
    ],
)
def test_refused_at_the_door(kind, body, place):
    name = {GrapeConfig: "grape", GrpoConfig: "grpo"}[kind]
    with pytest.raises(ValidationError) as caught:
        kind.model_validate({"type": name, **body})
    assert place in {tuple(error["ctx"]["loc"]) if "loc" in error.get("ctx", {}) else error["loc"]
                     for error in caught.value.errors()}  # fmt: skip


def rubric(*criteria):
    return RubricContent.model_validate({"criteria": list(criteria)})


def judged(key="j", **changes):
    grader = {"type": "judge", "judge": "jdg_1", **changes.pop("grader", {})}
    return {"key": key, "weight": 1, "text": "…", "grader": grader, **changes}


def test_what_aggregation_knows_of_a_criterion():
    content = rubric(
        judged("a", grader={"votes": 3}, tags=["x"], default_confidence=0.4),
        judged("b", polarity="met_is_bad", gate={"mode": "cap", "threshold": 0.4, "cap": 0.25}),
        judged("s", scope="step", step_pooling="min"),
        {"key": "v", "weight": 2, "grader": {"type": "regex", "pattern": "x"}, "gate": {"mode": "required"}},
        judged("z", audit=True, weight=None),
    )
    a, b, s, v, z = criterion_weights(content.criteria, {"jdg_1": 2})
    assert (a.votes, b.votes, v.votes) == (3, 2, None)
    assert (a.tags, a.default_confidence, a.gate, a.step_pooling) == (("x",), 0.4, None, None)
    assert (b.gate, b.met_is_bad) == (GateRule(0.4, 0.25), True)
    assert (v.gate, v.judged) == (GateRule(0.5, 0.0), False)
    assert s.step_pooling == "min"
    assert (z.audit, z.weight) == (True, 1.0)


def test_noise_needs_votes_which_criteria_may_inherit():
    config = GrapeConfig(type="grape", advantage={"noise_aware": True})
    one = rubric(judged("a"), judged("b", grader={"votes": 2})).criteria
    assert not option_mismatches(config, criterion_weights(one, {"jdg_1": 2}))
    (problem,) = option_mismatches(config, criterion_weights(one, {"jdg_1": 1}))
    assert problem.place == ("advantage", "noise_aware")
    assert "'a' has a single vote" in problem.message


# --- presets ---


@pytest.mark.parametrize(
    ("preset", "objective", "scale"),
    [
        ("gspo", ("sequence", "sequence_mean", 3e-4, 4e-4), "group_std"),
        ("dapo", ("token", "token_mean", 0.2, 0.28), "group_std"),
        ("dr_grpo", ("token", "constant", 0.2, 0.2), "none"),
    ],
)
def test_presets_fill_in_what_is_left_open(preset, objective, scale):
    """GSPO clips at 3e-4 and 4e-4 (arXiv 2507.18071, §5.1); DAPO at .2 and .28 (2503.14476, §4.1); Dr. GRPO drops the deviation
    and divides by a constant (2503.20783, §3.1)."""
    config = GrpoConfig(type="grpo", preset=preset)
    own = config.objective
    assert (own.ratio, own.aggregation, own.clip_low, own.clip_high) == objective
    assert config.advantage.scale == scale
    again = GrpoConfig.model_validate(config.model_dump(mode="json"))
    assert again == config
    mine = GrapeConfig(type="grape", preset=preset, objective={"clip_high": 0.5}, advantage={"scale": "batch_std"})
    assert (mine.objective.clip_high, mine.objective.ratio, mine.advantage.scale) == (0.5, objective[0], "batch_std")


def test_dapo_has_its_four_parts_and_gives_way_to_the_job():
    """Clip-higher, dynamic sampling, token mean, overlong penalty (2503.14476, §3); the cache of 4,096 before 20,480 tokens is a
    fifth. No divergence from a reference (§2.3)."""
    config = GrpoConfig(type="grpo", preset="dapo")
    assert (config.truncated.mode, config.truncated.margin_below(20_480), config.truncated.penalty) == (
        "penalty",
        4096,
        1.0,
    )
    assert config.without_signal.resamples == 9
    assert config.kl.beta == 0
    mine = GrpoConfig.model_validate(
        {"type": "grpo", "preset": "dapo", "truncated": {"mode": "mask"}, "without_signal": {"mode": "skip"}}
    )
    assert (mine.truncated.mode, mine.without_signal.resamples) == ("mask", 0)
    fewer = GrpoConfig.model_validate({"type": "grpo", "preset": "dapo", "without_signal": {"max_resamples": 2}})
    assert fewer.without_signal.resamples == 2


def test_unknown_presets_are_refused():
    with pytest.raises(ValidationError, match="preset"):
        GrpoConfig(type="grpo", preset="papo")


def test_credit_by_step_is_not_ppos():
    from service.domain.policy_gradient import PpoConfig

    with pytest.raises(ValidationError, match="value model"):
        PpoConfig(type="ppo", objective={"step_credit": "all"})
    assert PpoConfig(type="ppo").objective.step_credit == "to_go"


def test_a_warm_up_ends_before_the_last_step():
    spec = {"algorithm": {"type": "sft"}, "policy": {"model": "mdl_0"}, "data": {"demonstrations": "ds_0"}}
    JobSpec.model_validate({**spec, "training": {"steps": 10, "warmup_steps": 9}})
    with pytest.raises(ValidationError, match="leaves none of the 10 at the full rate"):
        JobSpec.model_validate({**spec, "training": {"steps": 10, "warmup_steps": 10}})
