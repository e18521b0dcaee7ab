"""Asking a judge over real sockets: retries, waits, deadlines, failures with names, addresses that may not be reached."""

import asyncio
import time
from types import SimpleNamespace

import httpx
import pytest

from service.domain.judge import JudgeConfig, JudgeLimits
from service.domain.rubric import Criterion
from tests.support.judge import verdict
from workers.graders.judge.cell import combine, grade_completion
from workers.graders.judge.client import Endpoint
from workers.graders.judge.connections import judge_client
from workers.graders.judge.egress import VettedBackend, may_connect, networks
from workers.graders.judge.gate import Gate
from workers.graders.judge.probe import probe
from workers.graders.judge.reply import Failure, Verdict

PROMPT = {"messages": [{"role": "user", "content": "q"}]}


def criterion(**grader):
    return Criterion.model_validate(
        {"key": "clear", "weight": 1, "text": "t", "grader": {"type": "judge", "judge": "jdg_1", **grader}}
    )


def grade(judge, asked=None, config=None, limits=None, count=1, api_key=None):
    """Grade `count` texts at once; their cells."""

    async def run():
        async with judge_client(["loopback"]) as client:
            endpoint = Endpoint(
                client,
                JudgeConfig.model_validate({"endpoint": {"base_url": judge.base_url, "model": "m"}, **(config or {})}),
                JudgeLimits.model_validate({"timeout_s": 5, **(limits or {})}),
                api_key,
                Gate((limits or {}).get("concurrency", 16)),
            )
            cells = [
                grade_completion(
                    endpoint,
                    [asked or criterion()],
                    judge_id="jdg_1",
                    revision=3,
                    guidelines="",
                    prompt=PROMPT,
                    text=f"a{k}",
                )
                for k in range(count)
            ]
            return [cell for (cell,) in await asyncio.gather(*cells)]

    found = asyncio.run(run())
    return found[0] if count == 1 else found


def once(first, then=verdict):
    """Answer the first question in one way and the others in another."""
    seen = []

    def answer(question):
        seen.append(question)
        return first if len(seen) == 1 else then(question)

    return answer


def test_an_ok_cell_holds_everything(judge):
    judge.answer = lambda q: verdict(q, True, 0.7, "it is clear")
    cell = grade(judge, api_key="sk-1", config={"sampling": {"temperature": 0.3, "max_tokens": 99}})
    assert (cell.status, cell.score, cell.confidence, cell.confidence_source) == ("ok", 1.0, 0.7, "verbal")
    assert (cell.reasoning, cell.grader, cell.judge, cell.revision) == ("it is clear", "judge", "jdg_1", 3)
    assert (cell.attempts, cell.tokens_in, cell.tokens_out) == (1, 7, 3)
    assert len(cell.fingerprint) == 16
    assert cell.latency_ms > 0
    (question,) = judge.questions
    assert question.headers["authorization"] == "Bearer sk-1"
    assert (question.body["model"], question.body["temperature"], question.body["max_tokens"]) == ("m", 0.3, 99)
    assert "seed" not in question.body


@pytest.mark.parametrize("wait", ["0.4", "http-date"])
def test_429_waits_as_long_as_it_is_told(judge, wait):
    import email.utils

    header = email.utils.formatdate(time.time() + 2, usegmt=True) if wait == "http-date" else wait
    judge.answer = once((429, {"retry-after": header}, {"error": "busy"}))
    cell = grade(judge)
    assert (cell.status, cell.attempts) == ("ok", 2)
    pause = judge.questions[1].at - judge.questions[0].at
    assert pause >= (0.4 if wait == "0.4" else 0.9)
    assert pause < 4


def test_errors_of_the_server_are_tried_again_with_growing_waits(judge):
    judge.answer = lambda q: (503, {}, {"error": "down"})
    cell = grade(judge, limits={"max_attempts": 3})
    assert (cell.status, cell.family, cell.attempts, cell.score) == ("infra_error", "infra", 3, None)
    assert "503" in cell.reason
    first, second, third = (q.at for q in judge.questions)
    assert 0.2 < second - first < 0.8
    assert 0.4 < third - second < 1.4


def test_429_to_the_end_is_rate_limited(judge):
    judge.answer = lambda q: (429, {"retry-after": "0.01"}, {})
    assert grade(judge, limits={"max_attempts": 2}).status == "rate_limited"


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_what_will_not_change_is_not_asked_again(judge, status):
    judge.answer = lambda q: (status, {}, {"error": {"message": "no"}})
    cell = grade(judge)
    assert (cell.status, cell.attempts) == ("infra_error", 1)
    assert str(status) in cell.reason


def test_a_question_too_long_for_the_judge_is_the_subjects(judge):
    judge.answer = lambda q: (
        400,
        {},
        {"error": {"message": "maximum context length exceeded", "code": "context_length_exceeded"}},
    )
    cell = grade(judge)
    assert (cell.status, cell.family, cell.attempts) == ("judge_truncated", "subject", 1)


async def _slow():
    await asyncio.sleep(30)


def test_slow_judges_time_out(judge):
    judge.answer = lambda q: _slow()
    started = time.monotonic()
    cell = grade(judge, limits={"timeout_s": 0.3, "max_attempts": 2})
    assert (cell.status, cell.attempts) == ("timeout", 2)
    assert time.monotonic() - started < 3


def test_the_deadline_bounds_everything(judge):
    judge.answer = lambda q: (429, {"retry-after": "60"}, {})
    started = time.monotonic()
    cell = grade(judge, limits={"deadline_s": 2.0})
    assert (cell.status, cell.attempts) == ("rate_limited", 1)
    assert "deadline" in cell.reason
    assert time.monotonic() - started < 1


def test_nobody_there(judge):
    cell = grade(SimpleNamespace(base_url="http://127.0.0.1:9/v1"), limits={"max_attempts": 1})
    assert (cell.status, cell.family) == ("infra_error", "infra")


def completion(content=None, finish="stop", **message):
    return (
        200,
        {},
        {"choices": [{"message": {"role": "assistant", "content": content, **message}, "finish_reason": finish}]},
    )


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (completion(None, refusal="I will not"), "refusal"),
        (completion("x", "content_filter"), "refusal"),
        (completion("   "), "parse_error"),
        (completion("no json"), "parse_error"),
        ((200, {}, b"<html>"), "infra_error"),
        ((200, {}, {"choices": []}), "infra_error"),
        ((200, {}, {"error": "soft"}), "infra_error"),
    ],
)
def test_answers_that_are_no_verdict(judge, answer, status):
    judge.answer = lambda q: answer
    cell = grade(judge, limits={"max_attempts": 1})
    assert (cell.status, cell.score) == (status, None)
    assert cell.reason


def test_a_truncated_verdict_is_never_read_even_if_it_parses(judge):
    judge.answer = lambda q: completion(verdict(q), "length")
    assert grade(judge).status == "judge_truncated"


def test_subject_failures_are_never_asked_again(judge):
    judge.answer = lambda q: "nonsense"
    grade(judge, limits={"max_attempts": 4})
    assert len(judge.questions) == 1


def test_concurrency_is_never_exceeded(judge):
    async def slowly(question):
        await asyncio.sleep(0.02)
        return verdict(question)

    judge.answer = slowly
    cells = grade(judge, limits={"concurrency": 3}, count=30)
    assert {c.status for c in cells} == {"ok"}
    assert judge.most_in_flight == 3


def test_every_request_has_a_nonce_of_its_own(judge):
    grade(judge, count=5)
    assert len({q.nonce for q in judge.questions}) == 5


# --- votes ---


def test_votes_are_separate_questions(judge):
    answers = iter([True, True, False, True])
    judge.answer = lambda q: verdict(q, next(answers), 0.6)
    cell = grade(judge, asked=criterion(votes=4))
    # mean of 1,1,0,1; unbiased variance 4·(3/4)(1/4)/3 = 1/4
    assert (cell.score, cell.votes, cell.vote_variance) == (0.75, 4, pytest.approx(0.25))
    assert cell.confidence == pytest.approx(0.6)
    assert cell.attempts == 4


def test_combining_votes():
    yes, no = Verdict(1.0, 0.9, "y"), Verdict(0.0, 0.5, "n")
    lost = Failure("timeout", "slow")
    assert combine([yes, yes, lost], "verbal")["score"] == 1.0
    failed = combine([yes, lost], "verbal")  # half is not more than half
    assert (failed["status"], failed["reason"]) == ("timeout", "slow")
    # sd of {1, 0} is √½: max(0, 1 − 2·√½) = 0; of equal votes 0: 1
    assert combine([yes, no], "votes")["confidence"] == 0.0
    assert combine([yes, yes], "votes")["confidence"] == 1.0
    assert combine([yes], "votes")["confidence"] is None
    assert combine([yes, no], "none")["confidence"] is None
    assert combine([yes, no], "verbal")["confidence"] == pytest.approx(0.7)
    assert combine([yes, no], "verbal")["reasoning"] == "y\n\nn"


# --- where judges may be ---


@pytest.mark.parametrize(
    ("address", "allowed", "expected"),
    [
        ("93.184.216.34", [], True),
        ("127.0.0.1", [], False),
        ("127.0.0.1", ["loopback"], True),
        ("::1", ["loopback"], True),
        ("::ffff:127.0.0.1", [], False),
        ("::ffff:169.254.169.254", ["loopback", "private"], False),
        ("169.254.169.254", ["loopback", "private"], False),
        ("10.1.2.3", ["private"], True),
        ("10.1.2.3", ["loopback"], False),
        ("10.1.2.3", ["10.1.2.0/24"], True),
        ("0.0.0.0", ["loopback"], False),
        ("fe80::1", ["private"], False),
        ("224.0.0.1", [], False),
    ],
)
def test_addresses(address, allowed, expected):
    assert may_connect(address, networks(allowed)) == expected


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]"])
def test_private_addresses_are_refused_however_they_are_spelled(judge, host):
    base_url = f"http://{host}:{judge.port}/v1"
    problem = probe(base_url, None, [])
    assert problem is not None
    assert "does not answer" in problem
    assert judge.questions == []


def test_the_backend_is_the_one_in_use():
    async def run():
        async with judge_client([]) as client:
            assert isinstance(client._transport.backend, VettedBackend)
            assert client.follow_redirects is False
            with pytest.raises(httpx.ConnectError, match="GRAPE_EGRESS__ALLOW"):
                await client.get("http://127.0.0.1:1/")

    asyncio.run(run())


def test_probe(judge):
    assert probe(judge.base_url, None, ["loopback"]) is None
    assert "does not answer" in probe("http://127.0.0.1:9/v1", None, ["loopback"])
