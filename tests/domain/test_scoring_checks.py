"""Options that the criteria do not allow are told, with their place and what to do."""

import pytest

from service.domain.scoring import CriterionWeight, ScoredCell, ScoringOptions, mismatches, score_group
from tests.support.scoring import CAP

PLAIN = CriterionWeight("a", 1.0, votes=2)
GATED = CriterionWeight("g", 1.0, gate=CAP, votes=2)
STEPPED = CriterionWeight("s", 1.0, step_pooling="mean", votes=2)
SINGLE = CriterionWeight("one", 1.0, votes=1)


@pytest.mark.parametrize(
    ("options", "criteria", "places"),
    [
        ({"level": "criterion"}, [PLAIN, GATED], ["level"]),
        ({"level": "criterion"}, [PLAIN, STEPPED], ["level"]),
        ({"level": "criterion", "noise_aware": True}, [PLAIN], ["noise_aware"]),
        ({"level": "criterion", "baseline": "none"}, [PLAIN], ["baseline"]),
        ({"noise_aware": True}, [GATED], ["noise_aware"]),
        ({"noise_aware": True}, [STEPPED], ["noise_aware"]),
        ({"noise_aware": True}, [PLAIN, SINGLE], ["noise_aware"]),
        ({"weighting": "inverse_variance"}, [PLAIN, SINGLE], ["weighting"]),
        ({"weighting": "inverse_variance"}, [STEPPED], ["weighting"]),
        ({"weighting": "inverse_variance", "min_group_confidence": 0.1}, [PLAIN], ["min_group_confidence"]),
        ({"weighting": "healthbench"}, [GATED], ["weighting"]),
        # and what is allowed
        ({"level": "criterion"}, [PLAIN, SINGLE], []),
        ({"noise_aware": True}, [PLAIN, CriterionWeight("v", 1.0, judged=False, votes=1)], []),
        ({"noise_aware": True}, [PLAIN, CriterionWeight("z", 1.0, audit=True, votes=1)], []),
        ({"weighting": "inverse_variance"}, [GATED], []),
        ({}, [PLAIN, GATED, STEPPED, SINGLE], []),
        ({"baseline": "none", "min_group_confidence": 0.5}, [PLAIN], []),
    ],
)
def test_mismatches(options, criteria, places):
    found = list(mismatches(ScoringOptions(**options), criteria))
    assert [problem.place[1] for problem in found] == places
    assert all(problem.message for problem in found)


def test_a_criterion_may_not_be_called_as_the_gates_part_is():
    named = CriterionWeight("gate", 1.0)
    assert not list(mismatches(ScoringOptions(), [named]))
    assert "another key" in next(mismatches(ScoringOptions(), [named, GATED])).message


def test_scoring_itself_refuses_too():
    cells = [{"g": ScoredCell(s, 1.0)} for s in (0.0, 1.0)]
    with pytest.raises(ValueError, match="no reward to gate"):
        score_group([GATED], cells, ScoringOptions(level="criterion"))
