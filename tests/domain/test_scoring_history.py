"""grape.md §4: running quantities are kept per rubric and criterion, of earlier steps only, and survive a checkpoint."""

import json

import pytest

from service.domain.scoring import CriterionWeight, History, Past, RunningMeans, ScoredCell
from service.domain.scoring.history import NOISE_GROUPS

SPECS = [CriterionWeight("a", 1.0), CriterionWeight("z", 1.0, audit=True)]


def test_running_means():
    means = RunningMeans()
    assert means.means() == {}
    means.add("a", [0.2, 0.4])
    means.add("a", [0.9])
    means.add("b", [])
    assert means.means() == {"a": pytest.approx(0.5)}


def test_rubrics_do_not_mix():
    history = History()
    history.add("r1", SPECS, [{"a": ScoredCell(0.2, 0.5)}, {"a": ScoredCell(0.4)}, {}])
    history.add("r2", SPECS, [{"a": ScoredCell(1.0, 1.0)}])
    assert history.past("r1").score["a"] == pytest.approx(0.3)
    assert history.past("r1").confidence == {"a": 0.5}
    assert history.past("r2").score == {"a": 1.0}
    assert history.past("r3") == Past()


def test_a_view_is_of_its_time():
    history = History()
    history.add("r", SPECS, [{"a": ScoredCell(0.2)}])
    before = history.past("r")
    history.add("r", SPECS, [{"a": ScoredCell(1.0)}])
    assert before.score == {"a": 0.2}


def test_noise_is_pooled_over_the_last_64_groups():
    history = History()
    for k in range(NOISE_GROUPS + 10):
        history.add(
            "r", SPECS, [{"a": ScoredCell(0.5, noise=1.0 if k < 10 else 0.1)}, {"a": ScoredCell(0.5, noise=0.3)}]
        )
    cells, total = history.past("r").noise["a"]
    assert (cells, total / cells) == (128, pytest.approx(0.2))


def test_criteria_of_a_prompt_are_remembered_by_tag():
    """Their keys are positions in one prompt's list: `prompt.1` of another prompt is another criterion."""
    specs = [
        CriterionWeight("prompt.1", 1.0, per_prompt=True, tags=("safety", "tone")),
        CriterionWeight("prompt.2", 1.0, per_prompt=True, tags=("safety",)),
        CriterionWeight("prompt.3", 1.0, per_prompt=True),
    ]
    assert [c.series for c in specs] == [("prompt.safety", "prompt.tone"), ("prompt.safety",), ("prompt",)]
    history = History()
    history.add("r", specs, [{"prompt.1": ScoredCell(0.2), "prompt.2": ScoredCell(0.6), "prompt.3": ScoredCell(1.0)}])
    assert history.past("r").score == {"prompt.safety": pytest.approx(0.4), "prompt": 1.0}


def test_it_survives_json():
    history = History()
    history.add("r", SPECS, [{"a": ScoredCell(0.1, 0.2, 0.3), "z": ScoredCell(0.7)}, {"a": ScoredCell(1 / 3)}])
    again = History.from_json(json.loads(json.dumps(history.to_json())))
    assert again == history
    assert again.past("r") == history.past("r")
    for _ in range(NOISE_GROUPS):
        again.add("r", SPECS, [{"a": ScoredCell(0.1, noise=0.0)}])
    assert again.past("r").noise["a"] == (64, 0.0)  # the window still has its length
