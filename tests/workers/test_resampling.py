"""Groups without signal replaced by groups of the next prompts (dynamic sampling): bounded, reproducible, told."""

import pytest
import torch
from pydantic import ValidationError

from service.domain.grade import Cell
from service.domain.scoring import CriterionWeight
from tests.support.training import PROMPTS, Grader, run_of, spec_of, weights
from workers.training.ports import Suspended

RESAMPLE = {"without_signal": {"mode": "resample", "max_resamples": 2}}


class ByPrompt:
    """Verifies by prompt: completions of `dull` prompts all score alike. Keeps the places that it was asked for."""

    def __init__(self, dull, judged=None):
        self.dull, self.judged, self.places, self.forgotten = dull, judged, [], []

    def start(self, purpose, step):
        outer = self
        outer.places.append(f"{purpose}/{step}")

        class Grading:
            def submit(self, group):
                group.criteria = [CriterionWeight("v", 1.0, judged=outer.judged is not None)]
                dull = group.prompt.id in outer.dull
                group.cells = [{"v": outer.cell(0.5 if dull else i / 3)} for i in range(len(group.completions))]

            def finish(self):
                pass

            def forget(self):
                outer.forgotten.append(step)

        return Grading()

    def cell(self, score):
        if self.judged == "down":
            return Cell(criterion="v", grader="judge", status="timeout", reason="too slow")
        return Cell(criterion="v", grader="judge" if self.judged else "regex", status="ok", score=score, confidence=1.0,
                    confidence_source="verifier")  # fmt: skip


def collected(policy, grader, **changes):
    run = run_of(
        policy, spec_of("grpo", algorithm={**RESAMPLE, **changes.pop("algorithm", {})}, **changes), grader=grader
    )
    batch = run.algorithm.collect(run.environment).batch
    return run, batch


def order_of(policy):
    """The job's prompts in the order of its seed."""
    run = run_of(policy, spec_of("grpo"))
    return [prompt.id for prompt in run.environment.next_prompts(len(PROMPTS))]


def test_dull_groups_are_replaced_by_groups_of_the_next_prompts(tiny_folder, load):
    policy = load(tiny_folder)
    order = order_of(policy)
    run, batch = collected(policy, grader := ByPrompt({order[0], order[2], order[3]}))
    # step of 3: prompts 0 and 2 are dull, so 3 and 4 are drawn; 3 is dull too, so 5 is
    (_, _, recorded) = run.recorder.groups[0]
    assert [g.prompt.id for g in recorded] == [order[k] for k in (5, 1, 4, 0, 2, 3)]
    assert [g.scored.signal for g in recorded] == ["ok"] * 3 + ["no_spread"] * 3
    assert batch.prompts_P_T == [g.prompt.tokens for g in recorded[:3]]
    assert batch.sequences_in_step == 12
    assert batch.tokens_in_step == sum(
        len(c.tokens) for g in recorded[:3] for c in g.completions
    )  # the replaced count nowhere
    assert grader.places == ["train/1", "train.1/1", "train.2/1"]
    assert run.state.cursors["prompts"] == 6
    collected_metrics = run.state.collected
    assert (collected_metrics["resampled_groups"], collected_metrics["resamples"]) == (3.0, 2.0)
    assert (
        collected_metrics["groups_without_signal"] == 0.5
    )  # of all six: what the policy does is not made to look better
    assert run.recorder.events == []


def test_the_number_of_draws_is_bounded_and_what_is_left_is_skipped_exactly(tiny_folder, load):
    policy = load(tiny_folder)
    dull = {p.id for p in PROMPTS}
    run, batch = collected(policy, grader := ByPrompt(dull))
    assert grader.places == ["train/1", "train.1/1", "train.2/1"]
    assert len(run.recorder.groups[0][2]) == 9
    assert batch.tokens_B_T == []
    assert batch.sequences_in_step == 12  # the last three stay in the denominators, as without resampling
    assert run.recorder.events == [
        ("rollout.without_signal", {"step": 1, "groups": 3, "of": 3, "resamples": 2, "replaced": 6})
    ]
    assert run.state.collected["resampled_groups"] == 6.0


def test_where_every_group_has_signal_nothing_changes_by_a_bit(tiny_folder, load):
    results = []
    for algorithm in ({}, RESAMPLE):
        policy = load(tiny_folder)
        run = run_of(policy, spec_of("grpo", algorithm=algorithm), grader=ByPrompt(set()))
        run.go()
        results.append(weights(policy))
    assert torch.equal(*results)
    assert set(run.recorder.metric["resampled_groups"].values()) == {0.0}


def test_every_draw_has_random_numbers_of_its_own_and_the_same_ones_again(tiny_folder, load):
    policy = load(tiny_folder)
    dull = {p.id for p in PROMPTS}
    runs = [collected(policy, ByPrompt(dull))[0].recorder.groups[0][2] for _ in range(2)]
    tokens = [[[c.tokens for c in g.completions] for g in groups] for groups in runs]
    assert tokens[0] == tokens[1]
    by_prompt = {}
    for group in runs[0]:  # nine groups of six prompts: some prompts came twice, and were sampled anew
        by_prompt.setdefault(group.prompt.id, []).append([c.tokens for c in group.completions])
    twice = [groups for groups in by_prompt.values() if len(groups) > 1]
    assert twice
    assert all(first != second for first, second, *_ in twice)


def test_the_deviation_of_the_batch_is_that_of_the_groups_that_stay(tiny_folder, load):
    policy = load(tiny_folder)
    order = order_of(policy)
    run, _ = collected(policy, ByPrompt({order[0]}), algorithm={"advantage": {"scale": "batch_std"}})
    groups = run.recorder.groups[0][2]
    kept = [c.unscaled_advantage for g in groups[:3] for c in g.scored.completions]
    # three times (0, 1/3, 2/3, 1) − 1/2: Σ = 3·(2·(1/2)² + 2·(1/6)²) = 5/3, over n − 1 = 11
    assert sum(x * x for x in kept) == pytest.approx(5 / 3)
    factors = [c.scale_factor for g in groups for c in g.scored.completions]
    assert factors == pytest.approx([(11 / (5 / 3)) ** 0.5] * 12 + [0.0] * 4)


def test_where_no_judge_answers_nothing_is_drawn_again(tiny_folder, load):
    policy = load(tiny_folder)
    run = run_of(policy, spec_of("grpo", algorithm=RESAMPLE), grader=(grader := ByPrompt(set(), judged="down")))
    with pytest.raises(Suspended, match="no judge cell of this step was ok"):
        run.go()
    assert grader.places == ["train/1"]
    assert grader.forgotten == [1]


def test_running_quantities_take_in_all_that_was_graded(tiny_folder, load):
    policy = load(tiny_folder)
    order = order_of(policy)
    run, _ = collected(policy, ByPrompt({order[0]}))
    # 16 cells: three groups of mean 1/2 and one dull group of .5
    assert run.environment.past("").score == {"v": pytest.approx(0.5)}
    assert len(run.recorder.groups[0][2]) == 4


def test_resampling_moves_its_objective_and_ends_with_the_same_weights_again(tiny_folder, load):
    results = []
    for _ in range(2):
        policy = load(tiny_folder)
        spec = spec_of("grape", algorithm={"preset": "dapo"}, training={"steps": 4})
        assert spec.algorithm.without_signal.resamples == 9
        run_of(policy, spec, grader=Grader()).go()
        results.append(weights(policy))
    assert torch.equal(*results)


def test_a_bound_without_resampling_is_refused():
    with pytest.raises(ValidationError, match="goes with mode 'resample'"):
        spec_of("grpo", algorithm={"without_signal": {"max_resamples": 2}})
