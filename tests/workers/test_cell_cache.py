"""Cells that are known already: what makes two cells the same, and what is asked for all the same."""

import copy
from collections import Counter

import pytest
from sqlalchemy import func, select, update

from service.db.queries.cell_work import old_cells
from service.db.queries.jobs import now, seconds
from service.db.tables import CachedCell
from service.domain.judge import JudgeConfig
from service.domain.rubric import Criterion
from tests.support.cells import PROJECT, ask, engine, finish, judged, make_judge, make_project
from tests.support.judge import verdict
from workers.graders.judge.cache_key import CellKeys

# --- the key ---

CONFIG = {
    "endpoint": {"base_url": "http://a/v1", "model": "m"},
    "sampling": {"temperature": 0.5, "top_p": 0.9, "max_tokens": 100, "seed": 1},
    "prompt": {"system": "be strict", "version": 2},
    "examples": [{"prompt": "p", "answer": "a", "verdict": True, "reasoning": "r"}],
    "votes": 2,
    "confidence": "verbal",
    "batch": 3,
}
CRITERION = {
    "key": "k",
    "title": "T",
    "text": "is good",
    "weight": 1,
    "scale": {
        "type": "ordinal",
        "levels": [{"label": "bad", "value": 0, "anchor": "x"}, {"label": "good", "value": 1, "anchor": "y"}],
    },
    "grader": {"type": "judge", "judge": "jdg_1", "votes": 2, "confidence": "verbal"},
}
PROMPT = {"id": "p", "category": "c", "messages": [{"role": "user", "content": "q"}]}
OTHER = {"key": "other", "weight": 1, "text": "is short", "grader": {"type": "judge", "judge": "jdg_1"}}


def key(config=CONFIG, criterion=CRITERION, chunk=(), guidelines="g", prompt=PROMPT, text="t", reply_format="text"):
    made = Criterion.model_validate(criterion)
    together = [made, *(Criterion.model_validate(other) for other in chunk)]
    return CellKeys(JudgeConfig.model_validate(config), guidelines).of(made, together, prompt, text, reply_format)


def changed(value, path, new):
    made = copy.deepcopy(value)
    *places, last = path.split("/")
    here = made
    for place in places:
        here = here[int(place) if place.isdigit() else place]
    here[int(last) if last.isdigit() else last] = new
    return made


@pytest.mark.parametrize(
    ("path", "new"),
    [
        ("endpoint/base_url", "http://b/v1"), ("endpoint/model", "m2"), ("sampling/temperature", 0.6), ("sampling/temperature", None),
        ("sampling/top_p", 0.8), ("sampling/top_p", None), ("sampling/max_tokens", 101), ("sampling/seed", 2), ("sampling/seed", None),
        ("prompt/system", "be kind"), ("prompt/version", 1), ("examples", []), ("examples/0/answer", "b"), ("examples/0/verdict", False),
        ("examples/0/reasoning", "s"), ("votes", 3), ("confidence", "votes"), ("batch", 4),
    ],
)  # fmt: skip
def test_whatever_the_judge_is_makes_another_cell(path, new):
    assert key(config=changed(CONFIG, path, new)) != key()


@pytest.mark.parametrize(
    ("path", "new"),
    [
        ("key", "k2"), ("title", "U"), ("text", "is better"), ("scale/levels/0/label", "poor"), ("scale/levels/0/value", 0.1),
        ("scale/levels/1/anchor", "z"), ("scale/type", "nominal"), ("scale", {"type": "boolean"}), ("scale", {"type": "unit"}),
        ("grader/votes", 3), ("grader/confidence", "none"), ("scope", "step"),
    ],
)  # fmt: skip
def test_whatever_the_criterion_says_makes_another_cell(path, new):
    assert key(criterion=changed(CRITERION, path, new)) != key()


def test_polarity_and_the_way_steps_are_cut():
    plain = {**CRITERION, "scale": {"type": "boolean"}}
    assert key(criterion={**plain, "polarity": "met_is_bad"}) != key(criterion=plain)
    steps = {**plain, "scope": "step"}
    assert key(criterion={**steps, "step_separator": "x"}) != key(criterion=steps)
    assert key(criterion={**steps, "step_pooling": "min"}) != key(criterion=steps)


@pytest.mark.parametrize(
    "change",
    [
        {"text": "t2"}, {"guidelines": "h"}, {"prompt": {"messages": [{"role": "user", "content": "r"}]}},
        {"prompt": {"messages": [{"role": "system", "content": "q"}]}}, {"reply_format": "json_schema"},
        {"chunk": [OTHER]}, {"chunk": [{**OTHER, "text": "is long"}]},
    ],
)  # fmt: skip
def test_whatever_is_asked_makes_another_cell(change):
    assert key(**change) != key()


def test_what_shares_the_question_counts_and_in_which_order():
    third = {**OTHER, "key": "third"}
    assert len({key(), key(chunk=[OTHER]), key(chunk=[OTHER, third]), key(chunk=[third, OTHER])}) == 4


def test_what_no_judge_sees_makes_no_other_cell():
    assert key() == key()
    unseen = {
        "weight": 5, "tags": ["a"], "default_confidence": 0.5, "applies_to": {"tags": ["a"]}, "gate": {"mode": "required"},
    }  # fmt: skip
    for name, value in unseen.items():
        assert key(criterion={**CRITERION, name: value}) == key(), name
    assert key(criterion={**CRITERION, "audit": True}) == key()
    assert key(criterion=changed(CRITERION, "grader/judge", "jdg_2")) == key()
    assert key(prompt={**PROMPT, "id": "p2", "category": "d", "reference": "x"}) == key()


# --- the engine ---


@pytest.fixture
def grade(cluster, database, database_name, judge):
    """Grade texts on criteria with an engine of this process; the cells. `judge` counts the questions."""
    make_project(database)
    with engine(cluster.url("grape_app", database_name)):

        def run(criteria, texts, **options):
            return finish(database, ask(database, criteria, texts, **options))

        yield run


def asked(judge):
    found = len(judge.questions)
    judge.questions.clear()
    return found


def test_the_same_cells_are_not_asked_for_again(database, judge, grade):
    judge_id = make_judge(database, judge.base_url)
    criteria = [judged(judge_id, "a"), judged(judge_id, "b", text="is short")]
    first = grade(criteria, ["x", "y"])
    assert asked(judge) == 4
    again = grade([{**criteria[0], "audit": True}, {**criteria[1], "weight": 7}], ["y", "x"], batch=2)
    assert asked(judge) == 0
    assert {c["cached"] for c in first} == {False}
    assert {c["cached"] for c in again} == {True}
    assert {(c["criterion"], c["audit"]) for c in again} == {("a", True), ("b", False)}
    same = (
        "status",
        "score",
        "confidence",
        "reasoning",
        "tokens_in",
        "tokens_out",
        "attempts",
        "latency_ms",
        "fingerprint",
    )
    assert Counter(tuple(c[n] for n in same) for c in first) == Counter(tuple(c[n] for n in same) for c in again)
    grade([judged(judge_id, "a", text="is something else")], ["x"])
    assert asked(judge) == 1


def test_failures_are_never_remembered(database, judge, grade):
    judge_id = make_judge(database, judge.base_url, max_attempts=1)
    judge.answer = lambda q: verdict(q) if q.answer == "good" else (500, {}, {}) if q.answer == "down" else "no JSON"
    texts = ["good", "down", "odd"]
    assert sorted(c["status"] for c in grade([judged(judge_id)], texts)) == ["infra_error", "ok", "parse_error"]
    assert asked(judge) == 3
    judge.answer = verdict
    assert [(c["status"], c["cached"]) for c in grade([judged(judge_id)], texts)] == [
        ("ok", True), ("ok", False), ("ok", False),
    ]  # fmt: skip
    assert asked(judge) == 2


def test_every_vote_of_a_cell_is_a_question_and_all_of_them_are_remembered_together(database, judge, grade):
    judge_id = make_judge(database, judge.base_url, config={"sampling": {"temperature": 1.0}})
    answers = iter([True, False, True, True, True])
    judge.answer = lambda q: verdict(q, next(answers))
    first = grade([judged(judge_id, votes=4)], ["x"])
    assert (first[0]["score"], asked(judge)) == (0.75, 4)
    again = grade([judged(judge_id, votes=4)], ["x"])
    assert (again[0]["score"], again[0]["vote_variance"], asked(judge)) == (0.75, pytest.approx(0.25), 0)
    assert grade([judged(judge_id, votes=1)], ["x"])[0]["score"] == 1.0
    assert asked(judge) == 1


def test_it_can_be_switched_off_per_judge_and_per_question(database, judge, grade):
    off, on = make_judge(database, judge.base_url, cache=False), make_judge(database, judge.base_url)
    for _ in range(2):
        grade([judged(off)], ["x"])
    assert asked(judge) == 2
    grade([judged(on)], ["x"])
    grade([judged(on)], ["x"], fresh=True)
    assert asked(judge) == 2
    grade([judged(on)], ["x"])
    assert asked(judge) == 0


def test_it_knows_its_project(database, judge, grade):
    make_project(database, "prj_2")
    judge_id = make_judge(database, judge.base_url)
    grade([judged(judge_id)], ["x"])
    grade([judged(judge_id)], ["x"], project="prj_2")
    assert asked(judge) == 2
    assert grade([judged(judge_id)], ["x"], project="prj_2")[0]["cached"]


def test_another_judge_that_is_set_up_alike_has_the_same_cells(database, judge, grade):
    one, two = make_judge(database, judge.base_url), make_judge(database, judge.base_url, concurrency=3)
    grade([judged(one)], ["x"])
    (cell,) = grade([judged(two)], ["x"])
    assert (cell["cached"], cell["judge"], asked(judge)) == (True, two, 1)


def test_a_question_for_several_criteria_is_known_as_a_whole_or_as_what_is_left_of_it(database, judge, grade):
    judge_id = make_judge(database, judge.base_url, config={"batch": 3})
    criteria = [judged(judge_id, key) for key in "abc"]
    judge.answer = lambda q: verdict(q).replace('"criterion": "b"', '"criterion": "z"')  # b has no verdict
    assert Counter(c["status"] for c in grade(criteria, ["x"])) == {"ok": 2, "parse_error": 1}
    assert asked(judge) == 1
    judge.answer = verdict
    cells = grade(criteria, ["x"])
    assert [(c["criterion"], c["cached"]) for c in cells] == [("a", True), ("b", False), ("c", True)]
    assert [q.criteria for q in judge.questions] == [["b"]]
    asked(judge)
    assert {c["cached"] for c in grade(criteria, ["x"])} == {True}
    assert asked(judge) == 0
    grade(criteria[:2], ["x"])  # another question: a verdict may depend on what stands beside it
    assert asked(judge) == 1


def test_many_cells_are_looked_up_together(database, judge, grade):
    """2,560 cells: the second time without a call."""
    judge_id = make_judge(database, judge.base_url, concurrency=64)
    criteria = [judged(judge_id, f"c{k}", text=f"criterion {k}") for k in range(10)]
    texts = [f"text {k}" for k in range(256)]
    assert len(grade(criteria, texts)) == 2560
    assert asked(judge) == 2560
    cells = grade(criteria, texts)
    assert asked(judge) == 0
    assert all(c["cached"] and c["status"] == "ok" for c in cells)


def test_old_cells_are_forgotten(database, judge, grade):
    judge_id = make_judge(database, judge.base_url)
    grade([judged(judge_id)], ["x", "y"])
    with database.transaction() as session:
        (first, _) = session.scalars(select(CachedCell.key)).all()
        aged = update(CachedCell).where(CachedCell.key == first, CachedCell.project_id == PROJECT)
        session.execute(aged.values(created_at=now() - seconds(31 * 86_400)))
        session.execute(old_cells(30))
    with database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(CachedCell)) == 1
