"""What the labelling queue asks for, and what diagnostics see and propose; numbers by hand."""

import pytest

from service.domain.diagnostics import Graded, Weights, diagnose
from service.domain.queue import Candidate, Why, drift_of, priority, reasons


def candidate(k=0, **changes):
    values = {"completion": f"cmp_{k}", "subject": f"cmp_{k}", "criterion": "a", "question": "q", "judge": "jdg_1", "revision": 1,
              "score": 1.0, "confidence": 0.9, "vote_variance": None}  # fmt: skip
    return Candidate(**{**values, **changes})


def why(cells, people=None, share=0.0, seed=0):
    return [[(w.type, w.value) for w in found] for found in reasons(cells, people or {}, share, seed)]


def test_disagreement_of_votes_of_judges_and_of_people():
    cells = [
        candidate(0, vote_variance=0.25),
        candidate(1, vote_variance=0.01),
        candidate(2),
        candidate(3, completion="cmp_x", subject="cmp_2", judge="jdg_2", score=0.25),
        candidate(4, rated=-1),
        candidate(5, rated=3),
        candidate(6),
    ]
    found = why(cells, {("cmp_6", "q"): [0.0, 1.0], ("cmp_5", "q"): [1.0, 1.0]})
    assert found[0] == [("disagreement", 1.0)]  # a standard deviation of one half
    assert found[2] == found[3] == [("disagreement", 0.75)]
    assert found[4] == [("disagreement", 0.75)]
    assert found[6] == [("disagreement", 1.0)]
    assert found[1] == found[5] == []


def test_low_confidence_and_priority():
    assert why([candidate(confidence=0.2), candidate(confidence=None), candidate(confidence=0.5)]) == [
        [("low_confidence", 0.8)], [], [],
    ]  # fmt: skip
    both = [Why(type="audit", value=0.5, message=""), Why(type="low_confidence", value=0.8, message="")]
    assert priority(both) == pytest.approx(0.9)  # 1 − .5·.2
    assert priority([]) == 0


def test_a_random_share_that_stays_the_same():
    cells = [candidate(k) for k in range(2000)]
    drawn = [bool(found) for found in why(cells, share=0.05)]
    assert 60 < sum(drawn) < 140  # 100 ± 4 standard deviations of 9.7
    assert drawn == [bool(found) for found in why(cells, share=0.05)]
    assert drawn != [bool(found) for found in why(cells, share=0.05, seed=1)]
    more = [bool(found) for found in why(cells, share=0.1)]
    assert all(b for a, b in zip(drawn, more, strict=True) if a)  # a larger share draws these too


def test_drift():
    """.6 and .8 by turns, then .2 more: thirds of 30, means .7 and .9, s = .1017, error √(2s²/30) = .0263, z = 7.6."""
    series = [0.6, 0.8] * 30 + [0.8, 1.0] * 15
    found = drift_of(series)
    assert (found.before, found.after) == (pytest.approx(0.7), pytest.approx(0.9))
    assert found.z == pytest.approx(0.2 / (2 * 0.01 * 30 / 29 / 30) ** 0.5)
    assert drift_of([0.6, 0.8] * 45) is None
    assert drift_of([0.6] * 30 + [0.9] * 29) is None  # too few
    assert drift_of([0.6] * 60 + [0.64] * 30) is None  # too little, however sure
    cells = [candidate(k, confidence=c) for k, c in enumerate(series)]
    asked = [k for k, found in enumerate(why(cells)) if found]
    assert asked
    assert min(asked) >= 60
    assert len(asked) < 15  # a fifth of thirty


def rows(*scores_of_groups, lengths=None):
    """Graded completions: for each group a list of dictionaries of scores."""
    found = []
    for number, group in enumerate(scores_of_groups):
        for place, scores in enumerate(group):
            length = lengths[number][place] if lengths else 10
            found.append(Graded(str(number), length, {key: (score, 0.9) for key, score in scores.items()}))
    return found


def test_within_groups():
    """a and b go together between prompts, and against each other within: only the latter counts."""
    groups = [[{"a": base, "b": base + 0.1}, {"a": base + 0.1, "b": base}] for base in (0.1, 0.5, 0.8)]
    found = diagnose(rows(*groups), {"a": Weights(1), "b": Weights(2)}, {})
    assert (found.completions, found.groups) == (6, 3)
    a = found.criteria[0]
    assert a.discrimination == pytest.approx(-1.0)
    assert a.groups_with_spread == 1.0
    assert a.length is None  # all are as long
    assert found.proposals == []  # of six cells nothing is said


def test_proposals():
    groups = [
        [{"a": x, "same": x, "flat": 1.0, "long": x}, {"a": 1 - x, "same": 1 - x, "flat": 1.0, "long": 1 - x}]
        for x in [0.0, 1.0] * 10
    ]
    lengths = [[100 if pair[0]["long"] else 10, 100 if pair[1]["long"] else 10] for pair in groups]
    weights = {"a": Weights(3), "same": Weights(1), "flat": Weights(1), "look": Weights(1, audit=True)}
    found = diagnose(rows(*groups, lengths=lengths), weights, {})
    by_key = {c.criterion: c for c in found.criteria}
    assert (by_key["flat"].common_share, by_key["flat"].groups_with_spread) == (1.0, 0.0)
    assert by_key["flat"].discrimination is None
    assert by_key["a"].length == pytest.approx(1.0)
    assert (by_key["look"].cells, by_key["look"].null_share) == (0, None)
    assert [(r.criteria, r.completions) for r in found.redundant] == [(("a", "same"), 40)]
    said = {(p.action, p.criterion, p.other) for p in found.proposals}
    assert said == {
        ("retire", "flat", None), ("merge", "same", "a"), ("reword", "a", None), ("reword", "same", None),
    }  # fmt: skip


def test_nulls_and_singles():
    single = [Graded("g", 1, {}, frozenset({"a"})), Graded("h", 1, {"a": (1.0, None)})]
    found = diagnose(single, {"a": Weights(1)}, {})
    assert found.groups == 0
    assert found.criteria[0].null_share == 0.5
    assert found.criteria[0].groups_with_spread is None
