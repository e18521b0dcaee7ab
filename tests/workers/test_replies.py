"""Raw replies: kept with the cells that came of them, once for each question, without the endpoint's key."""

import json
from itertools import count

import pytest
from sqlalchemy import delete, func, select, text, update

from service.db.queries.replies import old_replies
from service.db.tables import CellRow, Grading, Judge, JudgeReplies
from service.domain.grade import Cell
from service.domain.replies import unpack
from service.security import Vault
from tests.support.cells import PROJECT, SECRET, ask, engine, finish, judged, make_judge, make_project
from tests.support.judge import completion, verdict
from workers.graders.judge.record import Record
from workers.runs.replies import Kept, keep
from workers.runs.writer import cell_row

KEY = 'sk-very"secret\\key'


def graded(cluster, database, database_name, judge_id, criteria, texts=("a text",), settings=None, **more):
    """The cells of one grading."""
    with engine(cluster.url("grape_app", database_name), **(settings or {})):
        return finish(database, ask(database, criteria, list(texts), **more))


def stored(database):
    """Every row, unpacked, by its id."""
    with database.transaction() as session:
        return {row.id: unpack(row.body) for row in session.scalars(select(JudgeReplies))}


def test_every_vote_and_every_attempt(cluster, database, database_name, judge):
    """Two votes: one is answered at the second attempt, the other with nonsense."""
    make_project(database)
    judge_id = make_judge(database, judge.base_url)
    turn = count()

    def answer(question):
        number = next(turn)
        if number == 0:
            return 500, {}, b"out of order"
        return verdict(question, confidence=0.25) if number == 1 else "nonsense"

    judge.answer = answer
    (cell,) = graded(cluster, database, database_name, judge_id, [judged(judge_id, votes=2)])
    assert cell["status"] == "parse_error"
    ((name, votes),) = stored(database).items()
    assert name == cell["replies"]
    attempts = [attempt for vote in votes for attempt in vote.attempts]
    assert sorted((a.status, a.http_status) for a in attempts) == [("infra_error", 500), ("ok", 200), ("ok", 200)]
    assert {a.text for a in attempts} >= {"out of order", "nonsense"}
    assert sorted(vote.vote for vote in votes) == [1, 2]
    read = {vote.readings["nice"].status: vote.readings["nice"] for vote in votes}
    assert (read["ok"].score, read["ok"].confidence) == (1.0, 0.25)
    assert "nonce" in read["parse_error"].reason
    with database.transaction() as session:
        row = session.scalars(select(JudgeReplies)).one()
        assert (row.project_id, row.judge_id, row.judge_revision, row.job_id) == (PROJECT, judge_id, 1, None)
        assert row.grading_id.startswith("grd_")


@pytest.mark.parametrize(
    "answer",
    [
        lambda q: completion(None, refusal="I will not"),
        lambda q: completion("half of a rep", "length"),
        lambda q: completion(""),
        lambda q: (200, {}, b"no JSON at all"),
        lambda q: (400, {}, {"error": "no such model"}),
    ],
)
def test_what_is_no_verdict_is_kept_too(cluster, database, database_name, judge, answer):
    make_project(database)
    judge_id = make_judge(database, judge.base_url, max_attempts=1)
    judge.answer = answer
    (cell,) = graded(cluster, database, database_name, judge_id, [judged(judge_id)])
    ((vote,),) = stored(database).values()
    (attempt,) = vote.attempts
    assert attempt.status == cell["status"] != "ok"
    said = {"refusal": "I will not", "judge_truncated": "half of a rep"}.get(cell["status"])
    assert attempt.text == said if said else attempt.text


def test_criteria_that_share_a_question_share_its_replies(cluster, database, database_name, judge):
    make_project(database)
    judge_id = make_judge(database, judge.base_url, config={"batch": 2})
    criteria = [judged(judge_id, key) for key in ("a", "b", "c")]
    cells = {c["criterion"]: c for c in graded(cluster, database, database_name, judge_id, criteria)}
    found = stored(database)
    assert len(found) == 2
    assert cells["a"]["replies"] == cells["b"]["replies"] != cells["c"]["replies"]
    assert set(found[cells["a"]["replies"]][0].readings) == {"a", "b"}


def test_a_step_criterion_has_all_its_steps_in_one_place(cluster, database, database_name, judge):
    make_project(database)
    judge_id = make_judge(database, judge.base_url)
    criteria = [{**judged(judge_id, votes=2), "scope": "step"}]
    (cell,) = graded(cluster, database, database_name, judge_id, criteria, ["one\n\ntwo\n\nthree"])
    ((name, votes),) = stored(database).items()
    assert name == cell["replies"]
    assert sorted((vote.step, vote.vote) for vote in votes) == [(s, v) for s in (1, 2, 3) for v in (1, 2)]


def test_the_endpoints_key_is_in_nothing_that_is_stored(cluster, database, database_name, judge):
    """Some endpoints repeat the key in their errors; a judge that was talked into it, or a gateway's page, may say it too."""
    make_project(database)
    judge_id = make_judge(database, judge.base_url, max_attempts=2)
    with database.transaction() as session:
        session.execute(update(Judge).values(secret=Vault(SECRET).seal(KEY, judge_id)))
    heard = []

    def answer(question):
        heard.append(question.headers["authorization"])
        if question.answer == "refuse":
            return completion(None, refusal=f"not for {KEY}")
        if question.answer == "page":
            return 503, {"retry-after-ms": "1"}, f"<b>{KEY}</b>".encode()
        if question.answer == "error":
            return 401, {}, {"error": {"message": f"Incorrect API key provided: {KEY}"}}
        return verdict(question, reasoning=f"I was asked with {KEY}")

    judge.answer = answer
    cells = graded(
        cluster, database, database_name, judge_id, [judged(judge_id)], ["refuse", "page", "error", "say it"]
    )
    assert set(heard) == {f"Bearer {KEY}"}
    assert [cell["status"] for cell in cells] == ["refusal", "infra_error", "infra_error", "ok"]
    everything = json.dumps([cells, [[vote.model_dump() for vote in votes] for votes in stored(database).values()]])
    assert "secret" not in everything
    assert everything.count("[the endpoint's key]") >= 8  # in each cell, and in each reply
    with database.transaction() as session:
        cached = session.scalar(text("SELECT string_agg(cell::text, '') FROM cell_cache"))
    assert "secret" not in cached


def test_a_known_cell_names_the_replies_that_it_once_came_from(cluster, database, database_name, judge):
    make_project(database)
    judge_id = make_judge(database, judge.base_url)
    (first,) = graded(cluster, database, database_name, judge_id, [judged(judge_id)])
    (second,) = graded(cluster, database, database_name, judge_id, [judged(judge_id)])
    assert (second["cached"], second["replies"]) == (True, first["replies"])
    assert list(stored(database)) == [first["replies"]]


def test_nothing_is_kept_of_a_try_and_where_nobody_wants_it(cluster, database, database_name, judge):
    make_project(database)
    judge_id = make_judge(database, judge.base_url, cache=False)
    (cell,) = graded(cluster, database, database_name, judge_id, [judged(judge_id)], settings={"replies_days": 0})
    assert cell["replies"] is None
    grading = ask(database, [judged(judge_id)], ["a text"])
    with database.transaction() as session:
        session.execute(update(Grading).where(Grading.id == grading).values(purpose="try"))
    with engine(cluster.url("grape_app", database_name)):
        (cell,) = finish(database, grading)
    assert (cell["status"], cell["replies"]) == ("ok", None)
    assert stored(database) == {}


def test_a_bound_holds_for_all_replies_of_a_question(cluster, database, database_name, judge):
    make_project(database)
    judge_id = make_judge(database, judge.base_url)
    judge.answer = lambda question: "word " * 1000
    criteria = [judged(judge_id, votes=4)]
    graded(cluster, database, database_name, judge_id, criteria, settings={"replies_kb": 2})
    ((*votes,),) = stored(database).values()
    texts = [attempt.text for vote in votes for attempt in vote.attempts]
    assert [len(t) for t in texts] == [512] * 4
    assert all(attempt.cut for vote in votes for attempt in vote.attempts)


def test_what_is_stored_twice_is_there_once(database):
    """A commit whose answer was lost is done again."""
    make_project(database)
    record = Record(
        "jdg_1", 1, votes=[{"vote": 1, "step": None, "reply_format": "text", "attempts": [], "readings": {}}]
    )
    for _ in range(2):
        with database.transaction() as session:
            keep(session, [Kept(PROJECT, "job_1", record)], 100)
    assert list(stored(database)) == [record.id]


def cell_rows(database, cells, completions):
    """Rows of these cells, each under a completion of its own."""
    with database.transaction() as session:
        now = session.scalar(select(func.clock_timestamp()))
        for cell, completion_id in zip(cells, completions, strict=True):
            row = cell_row(Cell.model_validate(cell), completion_id, now)
            session.add(CellRow(**row, project_id=PROJECT, grading_id="grd_1"))


def test_replies_go_with_the_last_cell_that_names_them(cluster, database, database_name, judge):
    make_project(database)
    judge_id = make_judge(database, judge.base_url, config={"batch": 2})
    cells = graded(
        cluster, database, database_name, judge_id, [judged(judge_id, "a"), judged(judge_id, "b")], ["x", "y"]
    )
    cell_rows(database, cells, ["cmp_1", "cmp_1", "cmp_2", "cmp_2"])
    kept = {cell["replies"] for cell in cells}
    assert set(stored(database)) == kept
    assert len(kept) == 2
    for where, left in (
        ((CellRow.completion_id == "cmp_1", CellRow.criterion == "a"), kept),  # the other still names them
        ((CellRow.completion_id == "cmp_1",), {cells[2]["replies"]}),
        ((CellRow.completion_id == "cmp_2",), set()),
    ):
        with database.transaction() as session:
            session.execute(delete(CellRow).where(*where))
        assert set(stored(database)) == left


def test_what_is_old_goes_by_itself(cluster, database, database_name, judge):
    make_project(database)
    judge_id = make_judge(database, judge.base_url)
    graded(cluster, database, database_name, judge_id, [judged(judge_id)], ["x", "y"])
    with database.transaction() as session:
        first = session.scalars(select(JudgeReplies.id).limit(1)).one()
        session.execute(
            update(JudgeReplies)
            .where(JudgeReplies.id == first)
            .values(created_at=func.now() - text("interval '31 days'"))
        )
    with database.transaction() as session:
        assert session.execute(old_replies(30)).rowcount == 1
    assert first not in stored(database)
