"""When a revision is better (grape.md §7), with numbers worked out by hand from its formula."""

import math
import random

import pytest
from pydantic import ValidationError

from service.domain.dataset import ROWS
from service.domain.formats.rows import Importer, write
from service.domain.grade import Cell
from service.domain.revision import RevisionConfig, compare, standard_error
from service.domain.revision_request import LabelSpec, RevisionSpec, prompt_with_votes, with_votes
from service.domain.rubric import RubricContent
from service.domain.scoring import CriterionWeight, GateRule

A = CriterionWeight("a", 2.0)
B = CriterionWeight("b", 1.0)
V = CriterionWeight("v", 1.0, judged=False)
TESTS = (A, B, V)


def judged(key, *votes, **more):
    mean = math.fsum(votes) / len(votes)
    variance = math.fsum((v - mean) ** 2 for v in votes) / (len(votes) - 1)
    return Cell(
        criterion=key, status="ok", score=mean, votes=len(votes), vote_variance=variance, grader="judge", **more
    )


def verified(key, score, **more):
    return Cell(criterion=key, status="ok", score=score, grader="regex", **more)


def text(a, b, v, **more):
    return {"a": judged("a", *a), "b": judged("b", *b), "v": verified("v", v), **more}


def test_accepted_if_the_difference_exceeds_margin_and_two_standard_errors():
    # Plain rewards (2·.4 + .5 + 1)/4 = .575 and (2·.8 + .5 + 1)/4 = .775. The votes on a are ±.1 about their mean: variance
    # .02 of a single vote, .01 of the mean of two; b has none. SE² = (2/4)²·.01 for either text = .005 together.
    found = compare(TESTS, text((0.3, 0.5), (0.5, 0.5), 1), text((0.7, 0.9), (0.5, 0.5), 1), margin=0.1)
    assert found.accepted
    assert found.message is None
    assert found.original == pytest.approx(0.575, abs=1e-12)
    assert found.better == pytest.approx(0.775, abs=1e-12)
    assert found.difference == pytest.approx(0.2, abs=1e-12)
    assert found.standard_error == pytest.approx(math.sqrt(0.005), abs=1e-12)
    assert found.threshold == pytest.approx(2 * math.sqrt(0.005), abs=1e-12)  # .1414, more than the margin


def test_a_difference_within_two_standard_errors_is_none():
    # b's votes 0 and 1: variance .5, of their mean .25, times (1/4)², for both texts: .03125. With a's .005: SE = .1904.
    found = compare(TESTS, text((0.3, 0.5), (0, 1), 1), text((0.7, 0.9), (0, 1), 1), margin=0.1)
    assert (found.accepted, found.reason) == (False, "within_error")
    assert found.standard_error == pytest.approx(math.sqrt(0.03625), abs=1e-12)
    assert found.threshold == pytest.approx(2 * math.sqrt(0.03625), abs=1e-12)


def test_more_votes_make_a_smaller_error():
    # Four votes on a (.3 .5 .3 .5): variance .04/3, of their mean .01/3; times (2/4)², both texts.
    rows = [text((0.3, 0.5, 0.3, 0.5), (0.5, 0.5), 1), text((0.7, 0.9, 0.7, 0.9), (0.5, 0.5), 1)]
    assert standard_error(TESTS, rows) == pytest.approx(math.sqrt(2 * 0.25 * 0.01 / 3), abs=1e-12)


@pytest.mark.parametrize(("votes", "share"), [(2, 0.09175), (4, 0.04621)])
def test_how_often_a_revision_of_equal_quality_passes_by_luck(votes, share):
    """With normal votes and one criterion the difference over its standard error has Student's distribution of 2·(votes − 1) degrees
    of freedom: it exceeds 2 with probability 1/2 − 1/√6 = .09175 for two degrees, and .04621 for six (any table of t)."""
    rng = random.Random(votes)
    passed, draws = 0, 12_000
    for _ in range(draws):
        # Far from 0 and 1, so that nothing is cut off.
        texts = [{"a": judged("a", *(rng.gauss(0.5, 0.04) for _ in range(votes)))} for _ in range(2)]
        passed += compare((A,), *texts, margin=0.0).accepted
    # Three standard deviations of a count of draws.
    assert abs(passed / draws - share) < 3 * math.sqrt(share * (1 - share) / draws)


@pytest.mark.parametrize(("after", "accepted"), [(0.6, False), (0.601, True), (0.58, False)])
def test_the_margin_has_to_be_exceeded(after, accepted):
    # Only a moves: plain reward by (after − .4)·2/4, which is .1 at .6: exactly the margin is not more than it.
    found = compare(TESTS, text((0.4, 0.4), (0.5, 0.5), 1), text((after, after), (0.5, 0.5), 1), margin=0.1)
    assert found.accepted is accepted
    assert found.reason == (None if accepted else "below_margin")


def test_no_verifier_that_passed_may_fail():
    # (2·.4 + .5 + 1)/4 = .575 becomes (2·1 + 1 + 0)/4 = .75: better by .175, and v is lost.
    original, revision = text((0.4, 0.4), (0.5, 0.5), 1), text((1, 1), (1, 1), 0)
    found = compare(TESTS, original, revision, margin=0.1)
    assert (found.reason, found.difference) == ("verifier_regressed", pytest.approx(0.175, abs=1e-12))
    assert "'v'" in found.message
    # Best and worst of a group are under the other rules alone; and one that failed before may fail again.
    assert compare(TESTS, original, revision, margin=0.1, keep_verifiers=False).accepted
    assert compare(TESTS, text((0.4, 0.4), (0.5, 0.5), 0), revision, margin=0.1).accepted
    # A judge's score is no verifier's: it may fall where the whole rises.
    assert compare(TESTS, text((1, 1), (0, 0), 0), text((0.9, 0.9), (1, 1), 0), margin=0.1).accepted


def test_a_null_cell_is_never_compared():
    null = Cell(criterion="b", status="timeout", reason="no answer", grader="judge")
    good, bad = text((1, 1), (1, 1), 1), text((0, 0), (0, 0), 0)
    for original, revision in (({**bad, "b": null}, good), (bad, {**good, "b": null})):
        found = compare(TESTS, original, revision, margin=0.1)
        assert (found.reason, found.difference, found.threshold) == ("null_cell", None, None)
        assert "timeout: no answer" in found.message


def test_audit_criteria_have_no_say():
    audit = CriterionWeight("x", 5.0, judged=False, audit=True)
    original = text((0.4, 0.4), (0.5, 0.5), 1, x=verified("x", 1.0, audit=True))
    null = Cell(criterion="x", status="infra_error", reason="gone", grader="regex", audit=True)
    for cell in (verified("x", 0.0, audit=True), null):
        revision = text((0.8, 0.8), (0.5, 0.5), 1, x=cell)
        found = compare((*TESTS, audit), original, revision, margin=0.1)
        assert (found.accepted, found.difference) == (True, pytest.approx(0.2, abs=1e-12))


def test_gates_are_in_the_plain_reward():
    gated = CriterionWeight("v", 1.0, judged=False, gate=GateRule(threshold=0.5, factor=0.0))
    # The original trips the gate: 0; the revision has (2·.2 + .2 + 1)/4 = .4.
    found = compare((A, B, gated), text((0.9, 0.9), (0.9, 0.9), 0), text((0.2, 0.2), (0.2, 0.2), 1), margin=0.1)
    assert (found.accepted, found.original, found.better) == (True, 0.0, pytest.approx(0.4, abs=1e-12))


def test_rows_with_lineage_are_known_as_ours_and_other_formats_leave_it_out():
    lineage = {
        "kind": "label",
        "result": "res_1",
        "chosen": {"completion": "cmp_1"},
        "rejected": {"completion": "cmp_2"},
    }
    row = {"prompt": "p", "chosen": "a", "rejected": "b", "lineage": lineage}
    assert Importer("preferences").read(row) == row
    assert ROWS["preferences"].validate_python(row).model_dump(mode="json", exclude_unset=True) == row
    assert write(row, "preferences", "trl") == {"prompt": "p", "chosen": "a", "rejected": "b"}


def faults(model, body):
    with pytest.raises(ValidationError) as error:
        model.model_validate(body)
    return {(".".join(map(str, e["loc"])), e["type"]) for e in error.value.errors()}


def test_what_does_not_go_together_is_refused():
    assert RevisionConfig().model_dump() == {
        "uses": ["pairs", "demonstrations"], "margin": 0.1, "votes": 2, "reviser": "policy", "per_group": 1, "every_steps": 1,
        "preferences": None, "demonstrations": None,
    }  # fmt: skip
    judge = "jdg_1"
    assert ("votes", "greater_than_equal") in faults(RevisionConfig, {"votes": 1})
    assert faults(RevisionConfig, {"uses": ["pairs", "group"], "reviser": judge}) == {("uses.1", "invalid_option")}
    assert faults(RevisionConfig, {"uses": ["pairs", "pairs"]}) == {("uses.1", "duplicate")}
    assert faults(RevisionConfig, {"uses": ["group"], "preferences": "ds_1"}) == {("preferences", "invalid_option")}
    assert faults(RevisionSpec, {"completions": ["cmp_1"]}) == {("reviser", "missing")}
    assert faults(RevisionSpec, {"job": "job_1", "reviser": "policy"}) == {("reviser", "invalid_option")}
    both = {"job": "job_1", "grading": "grd_1", "reviser": judge}
    assert faults(RevisionSpec, both) == {("", "one_of")}
    pairs = {"job": "job_1", "uses": ["pairs_from_group"]}
    assert faults(RevisionSpec, {**pairs, "reviser": judge}) == {("reviser", "invalid_option")}
    assert RevisionSpec.model_validate(pairs).revises is False
    assert faults(RevisionSpec, {"job": "job_1", "uses": ["group"], "reviser": judge}) == {("uses.0", "invalid_option")}
    named = {"completions": ["cmp_1"], "reviser": judge, "per_group": 2}
    assert faults(RevisionSpec, named) == {("per_group", "invalid_option")}
    assert faults(LabelSpec, {"judge": judge, "completions": ["cmp_1", "cmp_2", "cmp_3"]}) == {
        ("completions", "odd_number")
    }


def test_every_judged_criterion_gets_at_least_so_many_votes():
    def of(key, **grader):
        return {"key": key, "weight": 1, "text": "t", "grader": {"type": "judge", "judge": "jdg_1", **grader}}

    verifier = {"key": "v", "weight": 1, "grader": {"type": "regex", "pattern": "x"}}
    content = RubricContent.model_validate(
        {"criteria": [of("one"), of("five", votes=5), of("mine", votes=1), verifier]}
    )
    asked = with_votes(content, 2, {"jdg_1": 3})
    assert [getattr(c.grader, "votes", None) for c in asked.criteria] == [3, 5, 2, None]
    prompt = {"messages": [], "criteria": [of("own")]}
    assert prompt_with_votes(prompt, 4, {})["criteria"][0]["grader"]["votes"] == 4
    assert prompt_with_votes({"messages": []}, 4, {}) == {"messages": []}
