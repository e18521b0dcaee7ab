"""What a worker learns about an endpoint by asking: every refusal that names its parameter, and silence about log-probabilities."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import delete, select

from service.db.queries import judges as judge_queries
from service.db.queries.abilities import outdated
from service.db.tables import EndpointAbilities
from service.pins import facts_in
from tests.support.asking import criterion, grade
from tests.support.cells import PROJECT, ask, engine, finish, judged, make_judge, make_project
from tests.support.judge import verdict
from workers.graders.judge.abilities import ENOUGH, Abilities
from workers.runs.learned import AGAIN_S, Learned

LOGPROB = {"confidence": "logprob"}


def learned(cluster, database, database_name, judge, texts=1, config=None, **limits):
    """What stands in the table once a grading has asked; and the judge."""
    judge_id = make_judge(database, judge.base_url, config=config, **limits)
    with engine(cluster.url("grape_app", database_name)):
        finish(database, ask(database, [judged(judge_id)], [f"text {n}" for n in range(texts)], batch=texts))
    with database.transaction() as session:
        return session.scalar(select(EndpointAbilities.learned)), judge_id


def test_what_was_refused_and_what_was_taken_is_written_beside_the_answers(cluster, database, database_name, judge):
    make_project(database)
    judge.refuses = ("response_format", "logprobs")
    config = {"structured_output": "auto", "sampling": {"seed": 1, "top_p": 0.9}, **LOGPROB}
    facts, judge_id = learned(cluster, database, database_name, judge, config=config)
    taken = {"temperature": True, "max_tokens": True, "seed": True, "top_p": True}
    assert facts == {"json_schema": False, "logprobs": False, **taken}
    with database.transaction() as session:
        found = facts_in(session.execute(judge_queries.facts_now(PROJECT, [judge_id])))[judge_id]
        assert found.lacks == {"json_schema": "learned", "logprobs": "learned"}
        assert facts_in(session.execute(judge_queries.facts({judge_id: 1}))) == {judge_id: found}
    # A judge whose owner knows better counts as told, and what it is told is not written as learned.
    judge.refuses = ()
    judge.answer = verdict
    said = {"capabilities": {"logprobs": True, "json_schema": False}}
    again, told = learned(cluster, database, database_name, judge, config=config, **said)
    assert again == facts
    with database.transaction() as session:
        found = facts_in(session.execute(judge_queries.facts_now(PROJECT)))
    assert (found[told].lacks, found[judge_id].lacks) == (
        {"json_schema": "said"},
        dict.fromkeys(("json_schema", "logprobs"), "learned"),
    )


@pytest.mark.parametrize(
    ("said", "known"),
    [
        ("Unsupported parameter: 'temperature' is not supported with this model.", False),
        ("'temperature' does not support 0 with this model. Only the default (1) value is supported.", False),
        ("[{'loc': ('body', 'temperature'), 'msg': 'Extra inputs are not permitted'}]", False),
        ('"temperature" is an unknown field', False),
        ("'temperature' must be at least 0.1", None),  # a value, not the parameter
        ("the server is overloaded", None),
    ],
)
def test_only_a_refusal_of_the_parameter_itself_is_one(cluster, database, database_name, judge, said, known):
    make_project(database)
    judge.answer = lambda question: (400, {}, {"error": {"message": said}})
    facts, _ = learned(cluster, database, database_name, judge)
    assert (facts or {}).get("temperature") is known


def test_an_endpoint_that_never_gives_log_probabilities_is_known_after_a_few_questions(
    cluster, database, database_name, judge
):
    make_project(database)
    facts, _ = learned(cluster, database, database_name, judge, texts=ENOUGH - 1, config=LOGPROB)
    assert "logprobs" not in facts
    facts, _ = learned(cluster, database, database_name, judge, texts=ENOUGH, config=LOGPROB, cache=False)
    assert facts["logprobs"] is False


def test_what_was_learned_long_ago_counts_no_more(database):
    make_project(database)
    place = {"project_id": PROJECT, "base_url": "http://h/v1", "model": "m", "learned": {"seed": False}}
    judge_id = make_judge(database, "http://h/v1")
    for age, left in ((1, {"seed": "learned"}), (8, {})):
        with database.transaction() as session:
            session.execute(delete(EndpointAbilities))
            session.add(EndpointAbilities(**place, updated_at=datetime.now(UTC) - timedelta(days=age)))
        with database.transaction() as session:
            assert facts_in(session.execute(judge_queries.facts({judge_id: 1})))[judge_id].lacks == left
            assert session.execute(outdated()).rowcount == (age > 7)


def test_log_probabilities_that_come_are_known_at_once():
    abilities = Abilities()
    for _ in range(ENOUGH - 1):
        abilities.saw_logprobs(given=False)
    assert abilities.logprobs is None
    abilities.saw_logprobs(given=True)
    for _ in range(ENOUGH):
        abilities.saw_logprobs(given=False)  # e.g. replies that hold no token to read
    assert abilities.known == {"logprobs": True}


def test_what_stays_as_it_was_is_written_once_a_day():
    seen, place = Learned(), ("prj_1", "http://h/v1", "m")
    for now, known, expected in (
        (0.0, {}, []),
        (1.0, {"seed": True, "logprobs": False}, [(place, {"seed": True})]),
        (2.0, {"seed": True}, []),
        (3.0, {"seed": False}, [(place, {"seed": False})]),
        (4.0 + AGAIN_S, {"seed": False}, [(place, {"seed": False})]),
    ):
        seen.saw(place, known, {"logprobs": True}, now)
        taken = seen.take()
        assert taken == expected
    seen.put_back(taken)
    assert seen.take() == taken


def test_the_first_question_may_be_the_one_that_finds_out(judge):
    """Nothing is known: the option is asked for, and the cell says why it has no confidence."""
    judge.refuses = ("logprobs",)
    cell = grade(judge, [criterion()], config=LOGPROB)["clear"]
    assert (cell.status, cell.confidence) == ("ok", None)
    assert "no confidence" in cell.reason
