"""A job of any algorithm stops when held-out plain reward falls for certain, and only then."""

import pytest
from pydantic import ValidationError

from service.domain.grade import Cell
from service.domain.job_state import JobFailure
from service.domain.scoring import CriterionWeight
from tests.support.training import Grader, run_of, spec_of

EVALUATION = {"prompts": "ds_1", "every_steps": 2, "rubric": {"id": "rub_0"}, "on_regression": "stop"}


class Scripted(Grader):
    """Every completion of a step has the same score."""

    def __init__(self, scores):
        super().__init__(criteria=[CriterionWeight("all", 1.0, judged=False)])
        self.scores = scores

    def cells(self, step, index, completion):
        score = self.scores[step]
        return {"all": Cell(criterion="all", grader="regex", status="ok", score=score, confidence=1.0)}


def a_run(policy, scores, kind="sft", **evaluation):
    saved = []
    spec = spec_of(kind, training={"steps": 6}, evaluation={**EVALUATION, **evaluation})
    run = run_of(policy, spec, grader=Scripted(scores), evaluate="all", save=lambda state: saved.append(state.step))
    run.evaluation.every_steps = 2
    return run, saved


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_it_stops_with_what_it_has_once_it_is_worse_than_its_best(tiny_folder, load, kind):
    run, saved = a_run(load(tiny_folder), {0: 0.25, 2: 0.75, 4: 0.5, 6: 0.5}, kind)
    with pytest.raises(JobFailure, match=r"0\.7500 at the best evaluation before became 0\.5000 at step 4") as caught:
        run.go()
    assert caught.value.code == "regression"
    assert saved == [4]
    assert run.state.best_held_out.keys() == run.evaluation.by_prompt.keys()


def test_it_goes_on_where_nothing_is_lost_or_nobody_asked(tiny_folder, load):
    run, saved = a_run(load(tiny_folder), {0: 0.25, 2: 0.25, 4: 0.5, 6: 0.5})
    run.go()
    assert saved == [6]
    run, _ = a_run(load(tiny_folder), {0: 1.0, 2: 0.5, 4: 0.0, 6: 0.0}, on_regression="continue")
    run.go()
    assert run.state.step == 6


def test_rounds_have_an_option_of_their_own():
    with pytest.raises(ValidationError, match=r"said by algorithm\.on_regression"):
        spec_of("grape", algorithm={"rounds": 2}, evaluation=EVALUATION)
