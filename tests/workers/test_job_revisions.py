"""Revisions inside a job: who is revised, what enters the update and with which weight, what is left out and why."""

import math
from dataclasses import replace

import pytest
import torch

from service.domain.pinned import PinnedRubrics
from service.domain.revision import RevisionConfig
from service.domain.rubric import RubricContent
from service.domain.scoring import CriterionWeight, ScoredCell, ScoringOptions, outside_advantage, score_group
from tests.support.training import Control, Recorder, gradient, rollout, spec_of
from workers.algorithms.on_policy import weigh_revisions
from workers.graders.rubric import CategoryGrader, RubricGrader
from workers.policy.loading import Reading
from workers.revisions.job import JobRevisions
from workers.training.environment import Rollouts
from workers.training.state import batch_from_json, batch_to_json
from workers.types import Completion, CompletionGroup, Prompt, RevisedSample

# The golden case of grape.md §5: shares (2, .8, .3)/3.1, R = (.793548, .270968, .912903, .125806).
GOLDEN = [[1, 0.5, 0.2], [0, 0.9, 0.4], [1, 0.7, 0.9], [0, 0.3, 0.5]]
SURE = [[1, 0.9, 0.2], [1, 0.8, 0.4], [1, 0.7, 0.3], [1, 0.8, 0.3]]
ABC = [CriterionWeight("a", 2.0), CriterionWeight("b", 1.0), CriterionWeight("c", 1.0)]


def golden(**options):
    rows = [
        {key: ScoredCell(s, c) for key, s, c in zip("abc", scores, sure, strict=True)}
        for scores, sure in zip(GOLDEN, SURE, strict=True)
    ]
    return score_group(ABC, rows, ScoringOptions(**options))


@pytest.mark.parametrize("baseline", ["group_mean", "leave_one_out"])
def test_a_revisions_advantage_is_measured_by_its_group(baseline):
    # A text with every score 1 has R = 1 by any shares; the members' mean is 2.103225/4 = .525806, and their deviations .267742,
    # −.254839, .387097, −.4 have squares that add up to .446473: std² = .148824, std = .385778. (1 − .525806)/.385778 = 1.229189.
    row = {key: ScoredCell(1.0, 0.1) for key in "abc"}
    found = outside_advantage(golden(baseline=baseline), ABC, row, baseline)
    assert found == pytest.approx(1.229189, abs=2e-5)
    # Half of a: R = (2·.5 + .8 + .3)/3.1 = .677419; unscaled .151613.
    half = outside_advantage(golden(scale="none", baseline=baseline), ABC, {**row, "a": ScoredCell(0.5)}, baseline)
    assert half == pytest.approx(0.151613, abs=1e-6)


def test_without_signal_a_revision_has_no_advantage():
    rows = [{key: ScoredCell(0.5, 1.0) for key in "abc"}] * 3
    flat = score_group(ABC, rows, ScoringOptions())
    assert flat.signal == "no_spread"
    assert outside_advantage(flat, ABC, {key: ScoredCell(1.0) for key in "abc"}, "group_mean") == 0.0


def with_revision(policy, **changes):
    """A scored rollout whose first group has an accepted revision with all scores 1."""
    algorithm, groups = rollout(policy, spec_of(**changes))
    good = {c: groups[0].cells[0][c].model_copy(update={"score": 1.0}) for c in ("even", "said")}
    revision = Completion([5, 7, 9, 1], [-2.0, -9.0, -0.001, -3.0], "stop", "x")
    groups[0].revisions.append(RevisedSample(revision, good))
    return algorithm, groups, revision


@pytest.mark.parametrize("importance", ["off", "truncated"])
def test_a_revision_enters_the_update_with_its_own_weight(tiny_folder, load, importance):
    policy = load(tiny_folder)
    algorithm, groups, revision = with_revision(policy, algorithm={"importance": {"mode": importance}})
    plain = algorithm.batch_of([replace(group, revisions=[]) for group in groups])
    batch = algorithm.batch_of(groups)
    assert batch.revised_B.count(True) == 1
    row = batch.revised_B.index(True)
    assert batch.tokens_in_step == plain.tokens_in_step + 4
    assert batch.sequences_in_step == plain.sequences_in_step + 1
    assert [b for k, b in enumerate(batch.advantages_B_T) if k != row] == plain.advantages_B_T
    done = algorithm.complete(policy, batch)
    # π_old(t | x, <t) by an own forward of this row alone; its ratio begins at 1, and its weight is min(1, π_old/μ).
    own = replace(batch.select([row]), revised_B=[])
    old = policy.logprobs(own).logprobs.detach().tolist()
    assert done.logprobs_B_T[row] == pytest.approx(old, abs=1e-5)
    wanted = [min(1.0, math.exp(p - m)) for p, m in zip(old, revision.logprobs, strict=True)]
    assert done.weights_B_T[row] == pytest.approx(wanted, rel=1e-4)
    assert 1.0 in done.weights_B_T[row]
    assert min(wanted) < 0.5
    if importance == "off":
        assert all(set(w) == {1.0} for k, w in enumerate(done.weights_B_T) if k != row)
        assert [b for k, b in enumerate(done.logprobs_B_T) if k != row] == plain.logprobs_B_T
    # The gradient: −Σ w·A·∇log π over the step's tokens, since every ratio is 1; worked out here from the forward alone.
    only = done.select([row])
    for parameter in policy.parameters():
        parameter.grad = None
    logprobs = policy.logprobs(only).logprobs
    advantage = done.advantages_B_T[row][0]
    (-(torch.tensor(done.weights_B_T[row]) * advantage * logprobs).sum() / done.tokens_in_step).backward()
    mine = torch.cat([p.grad.flatten() for p in policy.parameters()])
    assert torch.allclose(gradient(policy, algorithm, only), mine, atol=1e-6)
    assert batch_from_json(batch_to_json(done)) == done


def test_without_revisions_nothing_is_different(tiny_folder, load):
    policy = load(tiny_folder)
    algorithm, groups = rollout(policy, spec_of())
    batch = algorithm.batch_of(groups)
    assert (batch.revised_B, batch.weights_B_T) == ([], [])
    assert weigh_revisions(policy, batch, batch) is batch


# --- the policy revises ---

CONTENT = RubricContent.model_validate(
    {
        "criteria": [
            {"key": "a", "title": "Has an a", "weight": 2, "grader": {"type": "contains", "values": ["a"]}},
            {"key": "short", "weight": 1, "grader": {"type": "regex", "pattern": "^.{0,9}$"}},
            {"key": "seen", "audit": True, "weight": 1, "grader": {"type": "contains", "values": ["b"]}},
        ]
    }
)


class Told(Recorder):
    """Keeps revisions too; completions get ids, as the real one gives them."""

    def __init__(self):
        super().__init__()
        self.graded, self.results = [], []

    def completions(self, step, purpose, groups):
        super().completions(step, purpose, groups)
        for g, group in enumerate(groups):
            group.ids = [f"cmp_{g}{k}" for k in range(len(group.completions))]

    def revisions(self, step, graded, results):
        self.graded += graded
        self.results += results


def revising(policy, config, context=None):
    """A rollout of three prompts, recorded, and its revisions."""
    recorder, control = Told(), Control()
    name = "rub_1@2#afresh"
    grader = CategoryGrader(PinnedRubrics({"*": name}, {}), {name: RubricGrader(CONTENT, name, None)})
    view = {"category": None, "tags": [], "form": "text"}
    prompts = [
        Prompt(f"p{k}", [3 + k, 4], {**view, "id": f"p{k}", "messages": [{"role": "user", "content": f"{k}"}]})
        for k in range(3)
    ]
    rollouts = Rollouts(policy, grader, control, 0, 8)
    groups, _ = rollouts.run(prompts, purpose="train", step=1, group_size=4, temperature=1.0)
    for group in groups:
        rows = [{k: ScoredCell(c.score) for k, c in cells.items()} for cells in group.cells]
        group.scored = score_group(group.criteria, rows, ScoringOptions(weighting="uniform"))
    recorder.completions(1, "train", groups)
    revisions = JobRevisions(
        config=RevisionConfig.model_validate(config), grader=grader, desk=None, recorder=recorder, control=control,
        policy=policy, reading=Reading(policy.tokenizer, policy.eos_ids, context), model="mdl_0", job="job_7", judges={}, local_judges=(),
        votes={}, seed=0, temperature=1.0, max_completion_tokens=8,
    )  # fmt: skip
    return groups, recorder, revisions.run(1, groups)


def test_the_policy_revises_what_is_below_its_groups_best(tiny_folder, load):
    policy = load(tiny_folder)
    uses = ["pairs", "demonstrations", "group", "pairs_from_group"]
    groups, recorder, metrics = revising(policy, {"uses": uses, "per_group": None})
    below = {
        group.ids[i]
        for group in groups
        for i, c in enumerate(group.scored.completions)
        if c.plain_reward < max(o.plain_reward for o in group.scored.completions)
    }
    revised = [row for row in recorder.results if row["kind"] == "revision"]
    assert {row["original_id"] for row in revised} == below
    assert len(revised) == len(below)
    accepted = [row for row in revised if row["accepted"]]
    assert 0 < len(accepted) < len(revised)
    for row in revised:
        assert row["data"]["reviser"] == {"policy": "mdl_0", "step": 0, "prompt_version": 1}
        assert row["data"]["rubric"] == {"id": "rub_1", "version": 2}
        # Verifiers have no error: accepted exactly if the difference exceeds the margin and nothing that passed is lost.
        assert row["accepted"] == (row["reason"] is None)
        if row["accepted"]:
            assert row["difference"] > 0.1
            assert row["preference"]["lineage"]["chosen"]["completion"] == row["better_id"]
            assert row["demonstration"]["lineage"]["job"] == "job_7"
    entered = [revised for group in groups for revised in group.revisions]
    assert len(entered) == len(accepted)
    assert all(len(r.completion.tokens) == len(r.completion.logprobs) > 0 for r in entered)
    shown = [pair.completions[1].text for pair, sides in recorder.graded if sides[1]["revision_of"] is not None]
    assert {row["demonstration"]["completion"] for row in accepted} <= set(shown)
    pairs = [row for row in recorder.results if row["kind"] == "group_pair"]
    assert all(row["original_id"] in below for row in pairs)
    assert all((row["demonstration"] is None) for row in pairs)
    assert metrics["revisions"] == len(recorder.results)
    assert metrics["revisions.accepted"] == sum(row["accepted"] for row in recorder.results)
    ((kind, told),) = recorder.events
    assert (kind, told["pairs"], told["accepted"]) == (
        "revision.finished",
        len(recorder.results),
        metrics["revisions.accepted"],
    )
    again = revising(load(tiny_folder), {"uses": uses, "per_group": None})[1]
    assert [row["better_reward"] for row in again.results] == [row["better_reward"] for row in recorder.results]


def test_a_question_that_does_not_fit_is_no_revision(tiny_folder, load):
    groups, recorder, metrics = revising(load(tiny_folder), {"per_group": 1}, context=64)
    assert {row["reason"] for row in recorder.results} == {"no_revision"}
    assert all("context of 64" in row["message"] for row in recorder.results)
    assert len(recorder.results) == sum(len({c.plain_reward for c in group.scored.completions}) > 1 for group in groups)
    assert metrics["revisions.accepted_share"] == 0.0


def test_only_every_so_manieth_step(tiny_folder, load):
    _, recorder, metrics = revising(load(tiny_folder), {"every_steps": 2})
    assert (recorder.results, metrics) == ([], {})


def test_groups_of_pairs_are_graded_like_others():
    group = CompletionGroup(Prompt("p", [1], {}), [])
    assert (group.revisions, group.ids, group.critiques) == ([], [], [])
