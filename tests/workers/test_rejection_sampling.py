"""Rejection sampling keeps what it says, spreads its steps over rounds, and gets better at its rubric."""

import pytest

from service.domain.grade import Cell
from service.domain.job_state import JobFailure
from service.domain.rejection import round_steps
from service.domain.scoring import ScoringOptions
from tests.support.training import CRITERIA, Grader, algorithm_of, run_of, spec_of
from workers.advantages.group import group_advantages
from workers.types import Completion, CompletionGroup, Prompt, SupervisedBatch


def cell(key, score):
    common = {"criterion": key, "grader": "regex" if key == "even" else "judge"}
    if score is None:
        return Cell(status="timeout", reason="too slow", **common)
    return Cell(status="ok", score=score, **common)


def graded(*rows, ends=None, texts=None):
    """A group with (even, said) scores; plain reward is (2·even + said)/3."""
    texts = texts or [[5 + k, 1] for k in range(len(rows))]
    ends = ends or ["stop"] * len(rows)
    completions = [Completion(t, [-1.0] * len(t), end, str(t)) for t, end in zip(texts, ends, strict=True)]
    cells = [{"even": cell("even", a), "said": cell("said", b)} for a, b in rows]
    group = CompletionGroup(Prompt("p", [3], {}), completions, criteria=CRITERIA, cells=cells)
    group.scored = group_advantages(CRITERIA, cells, ScoringOptions(weighting="uniform"))
    return group


def kept(group, **config):
    algorithm = algorithm_of(spec_of("rejection_sampling", algorithm=config))
    return [group.completions.index(completion) for completion, _ in algorithm.keep(group)]


def test_best_of_n_keeps_one_and_of_equals_the_first():
    assert kept(graded((0.5, 1), (1, 0.5), (0, 1))) == [1]
    assert kept(graded((0, 1), (1, 0), (1, 0))) == [1]


def test_a_missing_cell_a_floor_and_a_cut_off_text_keep_it_out():
    group = graded((1, None), (1, 0.2), (0.5, 0.9), (1, 1), ends=["stop", "stop", "stop", "length"])
    assert kept(group) == [2 if (2 * 0.5 + 0.9) > (2 + 0.2) else 1]
    assert kept(group, floors={"said": 0.5}) == [2]
    assert kept(group, floors={"even": 0.9, "said": 0.9}) == []
    assert kept(group, floors={"nobody": 0.1}) == []


def test_a_threshold_keeps_all_above_it_each_text_once():
    group = graded((1, 1), (1, 1), (0.5, 0.5), (0, 0), texts=[[5, 1], [5, 1], [6, 1], [7, 1]])
    assert kept(group, select="threshold", threshold=0.5) == [0, 2]
    assert kept(group, select="best", threshold=1.01 - 0.01) == [0]
    assert kept(graded((0.5, 0.5), (0, 0)), threshold=0.9) == []


def test_steps_are_spread_over_rounds():
    assert round_steps(10, 4) == [3, 3, 2, 2]
    assert round_steps(4, 4) == [1, 1, 1, 1]


def test_a_round_ends_where_its_steps_end_and_the_next_one_samples_anew(tiny_folder, load):
    policy = load(tiny_folder)
    spec = spec_of(
        "rejection_sampling", algorithm={"rounds": 2}, training={"steps": 5, "learning_rate": 0.01, "batch_size": 4}
    )
    run = run_of(policy, spec)
    run.go()
    assert [step for step, purpose, _ in run.recorder.groups if purpose == "train"] == [1, 4]
    assert [len(groups) for _, _, groups in run.recorder.groups] == [6, 6]  # all prompts, each round
    assert set(run.recorder.metric["loss"]) == {1, 2, 3, 4, 5}


def test_minibatches_walk_over_all_that_was_kept():
    algorithm = algorithm_of(
        spec_of("rejection_sampling", training={"steps": 5, "learning_rate": 0.01, "batch_size": 2})
    )
    batch = SupervisedBatch([[3]] * 4, [[5, 1], [6, 6, 1], [7, 1], [8, 1]], [1.0] * 4, 9.0)
    parts = [algorithm.part(batch, use, 0) for use in range(4)]
    first = sorted(tuple(t) for part in parts[:2] for t in part.tokens_B_T)
    assert first == sorted(tuple(t) for t in batch.tokens_B_T)
    assert [part.weight_in_step for part in parts[:2]] == [sum(len(t) for t in part.tokens_B_T) for part in parts[:2]]
    assert algorithm.part(batch, 1, 0) == parts[1]


def test_it_gets_better_at_its_rubric(tiny_folder, load):
    policy = load(tiny_folder)
    rollout = {"group_size": 16, "prompts_per_step": 3, "max_completion_tokens": 8}
    training = {"steps": 64, "learning_rate": 0.01, "batch_size": 6}
    spec = spec_of("rejection_sampling", algorithm={"rounds": 8}, training=training, rollout=rollout)
    run = run_of(policy, spec)
    run.go()
    rewards = run.recorder.metric["plain_reward"]
    assert rewards[57] > rewards[1] + 0.15, rewards


def test_a_round_that_keeps_nothing_fails_with_what_to_do(tiny_folder, load):
    run = run_of(load(tiny_folder), spec_of("rejection_sampling"), grader=Grader(fails=lambda step, index: index != 0))
    run.algorithm.config = run.algorithm.config.model_copy(update={"floors": {"even": 1.0, "said": 1.0}})
    with pytest.raises(JobFailure, match=r"lower algorithm\.threshold or algorithm.floors") as caught:
        run.go()
    assert caught.value.code == "data_invalid"
