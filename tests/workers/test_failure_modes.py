"""Complaints about other graders (reference/rubrics.md §5) that have no better place: each would be seen here."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.scoring import CriterionWeight, ScoredCell, score_group
from tests.support.asking import criterion, grade_all
from tests.support.cells import ask, engine, finish, judged, make_judge, make_project
from tests.support.judge import FakeJudge, verdict

SHARE = st.floats(0, 1)


def rows_of(scores, missing=()):
    return [
        {key: ScoredCell(score, 1.0) for key, score in zip("pq", row, strict=True) if (i, key) not in missing}
        for i, row in enumerate(scores)
    ]


@given(
    scores=st.lists(st.tuples(SHARE, SHARE), min_size=3, max_size=6),
    weights=st.tuples(st.floats(1, 5), st.floats(1, 5)),
)
def test_garbage_on_a_penalty_never_pays_more_than_a_clean_not_met(scores, weights):
    """§5.1 #2: a default of "not met" for an unreadable verdict is a reward where meeting the criterion is bad.

    `p` is such a criterion: clean of it is goodness 1. Whatever the others got, no verdict is worth at most as much.
    """
    criteria = [
        CriterionWeight("p", weights[0], met_is_bad=True), CriterionWeight("q", weights[1], judged=False),
    ]  # fmt: skip
    clean = score_group(criteria, rows_of([(1.0, scores[0][1]), *scores[1:]]))
    garbage = score_group(criteria, rows_of(scores, missing={(0, "p")}))
    if garbage.completions[0].reward is not None:
        assert garbage.completions[0].reward <= clean.completions[0].reward + 1e-12
    assert garbage.completions[0].plain_reward is None


@given(scores=st.lists(st.tuples(SHARE, SHARE), min_size=3, max_size=6), dropped=st.sampled_from("pq"))
def test_a_dropped_cell_never_raises_a_score_without_saying_so(scores, dropped):
    """§5.1 #4: dropping a cell and dividing by the rest raised published scores. What is compared is null instead, and the
    coverage stands beside it."""
    criteria = [CriterionWeight("p", 2.0), CriterionWeight("q", 1.0)]
    found = score_group(criteria, rows_of(scores, missing={(0, dropped)})).completions[0]
    assert found.plain_reward is None
    assert found.coverage == pytest.approx({"p": 1 / 3, "q": 2 / 3}[dropped])


def test_one_timeout_of_ten_leaves_nine_and_only_the_tenth_is_asked_again(cluster, database, database_name):
    """§5.1 #11: elsewhere a judge's timeout threw away what had been graded already."""
    import asyncio

    async def slow(question):
        if question.criteria == ["k3"]:
            await asyncio.sleep(5)
        return verdict(question)

    make_project(database)
    with FakeJudge(slow) as judge, engine(cluster.url("grape_app", database_name)):
        judge_id = make_judge(database, judge.base_url, timeout_s=0.5, max_attempts=1)
        criteria = [judged(judge_id, f"k{n}", text=f"is {n}") for n in range(10)]
        statuses = {c["criterion"]: c["status"] for c in finish(database, ask(database, criteria, ["x"]))}
        assert statuses == {**{f"k{n}": "ok" for n in range(10)}, "k3": "timeout"}
        judge.questions.clear()
        judge.answer = verdict
        again = finish(database, ask(database, criteria, ["x"]))
        assert {c["status"] for c in again} == {"ok"}
        assert [question.criteria for question in judge.questions] == [["k3"]]


def test_those_who_were_told_to_wait_alike_do_not_come_back_at_once():
    """§5.2 #18: 19 of 20 retries came at one instant. Nobody before Retry-After, and no two together."""
    told = 0.4

    def answer(question):
        first = sum(q.answer == question.answer for q in judge.questions) == 1
        return (429, {"retry-after": str(told)}, {}) if first else verdict(question)

    with FakeJudge() as judge:
        judge.answer = answer
        texts = [f"t{n}" for n in range(8)]
        cells = grade_all(judge, [criterion()], texts, limits={"deadline_s": 30})
        assert {row["clear"].status for row in cells} == {"ok"}
        times = {text: [q.at for q in judge.questions if q.answer == text] for text in texts}
        assert all(second - first >= told for first, second in times.values())
        back = sorted(second for _, second in times.values())
        assert back[-1] - back[0] > 0.02


def test_connections_are_used_again():
    """Twenty questions one after the other come over one connection."""
    with FakeJudge() as judge:
        ports = set()
        judge.answer = lambda question: ports.add(question.port) or verdict(question)
        grade_all(judge, [criterion()], [f"t{n}" for n in range(20)], in_turn=True)
        assert len(judge.questions) == 20
        assert len(ports) == 1
