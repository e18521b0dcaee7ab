"""Several criteria in one question: matched by key, failing alone, and paid for once."""

import asyncio
import json

import pytest

from service.domain.judge import JudgeConfig
from tests.support.asking import criterion, grade, grade_all
from tests.support.judge import verdict
from workers.graders.judge.cell import chunks, split
from workers.graders.judge.prompt import messages_for

KEYS = ["a", "b", "c", "d", "e"]


def said(question, **verdicts):
    """A reply with these verdicts, in this order."""
    entries = [{"criterion": k, "reasoning": f"on {k}", "verdict": v, "confidence": 0.5} for k, v in verdicts.items()]
    return json.dumps({"nonce": question.nonce, "verdicts": entries})


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1, 1, 1, 1, 1]), (2, [1, 2, 2]), (5, [5]), (64, [5])])
def test_at_most_batch_criteria_share_a_question(judge, batch, sizes):
    cells = grade(judge, [criterion(k) for k in KEYS], config={"batch": batch})
    assert list(cells) == KEYS
    assert {cell.status for cell in cells.values()} == {"ok"}
    assert sorted(len(q.criteria) for q in judge.questions) == sizes
    assert sorted(k for q in judge.questions for k in q.criteria) == KEYS


def test_verdicts_are_matched_by_key_and_not_by_position(judge):
    judge.answer = lambda q: said(q, c=True, a=True, b=False)
    cells = grade(judge, [criterion(k) for k in "abc"], config={"batch": 3})
    assert {k: (c.score, c.reasoning) for k, c in cells.items()} == {
        "a": (1.0, "on a"), "b": (0.0, "on b"), "c": (1.0, "on c"),
    }  # fmt: skip


def test_a_missing_a_doubled_and_a_malformed_criterion_fail_alone(judge):
    def answer(question):
        entry = {"reasoning": "r", "confidence": 0.5}
        listed = [
            {"criterion": "a", "verdict": True, **entry},
            {"criterion": "c", "verdict": True, **entry},
            {"criterion": "c", "verdict": True, **entry},
            {"criterion": "d", "verdict": "yes", **entry},
            {"criterion": "e", "verdict": None, **entry},
        ]
        return json.dumps({"nonce": question.nonce, "verdicts": listed})

    judge.answer = answer
    cells = grade(judge, [criterion(k) for k in KEYS], config={"batch": 5})
    statuses = {k: cell.status for k, cell in cells.items()}
    assert statuses == {"a": "ok", "b": "parse_error", "c": "parse_error", "d": "parse_error", "e": "abstain"}
    assert len(judge.questions) == 1


def test_what_was_not_asked_is_ignored_and_counted(judge):
    judge.answer = lambda q: said(q, a=True, b=True, c=False, d=False)
    cells = grade(judge, [criterion(k) for k in "ab"], config={"batch": 2, "votes": 2})
    assert {k: cell.score for k, cell in cells.items()} == {"a": 1.0, "b": 1.0}
    assert sum(cell.unasked for cell in cells.values()) == 2 * 2


def test_one_timeout_leaves_the_other_questions_alone(judge):
    """Item 3 of 10 times out: nine cells (reference/rubrics.md 5.1 #11)."""

    async def answer(question):
        if question.criteria == ["k3"]:
            await asyncio.sleep(30)
        return verdict(question)

    judge.answer = answer
    stored = []
    cells = grade(
        judge,
        [criterion(f"k{n}") for n in range(10)],
        limits={"timeout_s": 0.5, "max_attempts": 1},
        on_cell=lambda cell: stored.append(cell.criterion),
    )
    assert [k for k, cell in cells.items() if cell.status != "ok"] == ["k3"]
    assert cells["k3"].status == "timeout"
    assert stored[-1] == "k3"
    assert len(stored) == 10


def test_a_batch_is_asked_once_for_each_vote_and_unequal_votes_do_not_share(judge):
    asked = [criterion("a"), criterion("b"), criterion("c", grader={"votes": 3}), criterion("d", grader={"votes": 3})]
    cells = grade(judge, asked, config={"batch": 4, "votes": 2})
    assert {k: cell.votes for k, cell in cells.items()} == {"a": 2, "b": 2, "c": 3, "d": 3}
    assert sorted(tuple(q.criteria) for q in judge.questions) == [("a", "b")] * 2 + [("c", "d")] * 3
    assert len({q.nonce for q in judge.questions}) == 5


def test_sums_over_cells_are_sums_over_calls(judge):
    """The fake endpoint counts 7 tokens in and 3 out for each answer; one 503 is tried again."""
    seen = []

    def answer(question):
        seen.append(question)
        return (503, {}, {}) if len(seen) == 1 else verdict(question)

    judge.answer = answer
    cells = list(grade(judge, [criterion(k) for k in "abc"], config={"batch": 3, "votes": 2}).values())
    assert len(judge.questions) == 3
    assert sum(cell.tokens_in for cell in cells) == 2 * 7
    assert sum(cell.tokens_out for cell in cells) == 2 * 3
    assert sum(cell.attempts - cell.votes for cell in cells) == 1


def test_a_failed_question_fails_its_criteria_and_no_others(judge):
    judge.answer = lambda q: "no json" if "a" in q.criteria else verdict(q)
    cells = grade(judge, [criterion(k) for k in "abcd"], config={"batch": 2})
    assert {k: c.status for k, c in cells.items()} == {"a": "parse_error", "b": "parse_error", "c": "ok", "d": "ok"}


def test_completions_do_not_mix(judge):
    judge.answer = lambda q: verdict(q, q.answer == "good")
    cells = grade_all(judge, [criterion(k) for k in "ab"], ["good", "bad", "good"], {"batch": 2})
    assert [{k: c.score for k, c in row.items()} for row in cells] == [
        {"a": 1.0, "b": 1.0}, {"a": 0.0, "b": 0.0}, {"a": 1.0, "b": 1.0},
    ]  # fmt: skip


@pytest.mark.parametrize(("total", "parts"), [(7, 3), (0, 4), (2, 5), (9, 1)])
def test_a_split_loses_nothing(total, parts):
    found = split(total, parts)
    assert sum(found) == total
    assert max(found) - min(found) <= 1


def test_a_batch_costs_an_eighth_of_the_input_on_long_answers():
    """Ten criteria in one question instead of ten (reference/rubrics.md 6.3): the answer is sent once."""
    criteria = [criterion(f"k{n}") for n in range(10)]
    config = JudgeConfig.model_validate({"endpoint": {"base_url": "http://h/v1", "model": "m"}})
    options = {
        "config": config, "guidelines": "", "prompt": {"messages": [{"role": "user", "content": "q"}]}, "nonce": "n",
        "answer": "word " * 4000,
    }  # fmt: skip

    def characters(asked):
        return sum(len(message["content"]) for message in messages_for(asked, **options))

    assert 8 * characters(criteria) <= sum(characters([c]) for c in criteria)


def test_chunks_keep_the_order():
    config = JudgeConfig.model_validate({"endpoint": {"base_url": "http://h/v1", "model": "m"}, "batch": 2})
    found = chunks([criterion(k) for k in KEYS], config)
    assert [(votes, [c.key for c in chunk]) for votes, chunk in found] == [(1, ["a", "b"]), (1, ["c", "d"]), (1, ["e"])]
