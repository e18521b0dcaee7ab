"""A registered model as a reviser, and as a judge that is asked afresh."""

import pytest

from service.domain.asked import Told
from service.domain.checkpoint import file_entry
from service.domain.judge import JudgeConfig
from service.domain.rubric import RubricContent
from service.model_files import model_paths
from tests.support.judge_model import OPEN, make_judge_model
from workers.graders.judge.purse import UNCOUNTED
from workers.graders.local.graders import LocalBatch, LocalGraders, PinnedJudge
from workers.policy.loading import ModelFiles

JUDGE = "jdg_0"
PROMPT = {"messages": [{"role": "user", "content": "say something nice"}], "category": None, "metadata": {}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_judge_model(tmp_path_factory.mktemp("judge"))


def graders_of(folder):
    files = ModelFiles("mdl_j", folder, [file_entry(folder, path) for path in model_paths(folder)])
    return LocalGraders(lambda model: files, bound=1 << 30, device="cpu")


def judge(**config):
    return PinnedJudge(JUDGE, 1, JudgeConfig.model_validate({"model": "mdl_j", **config}), 4)


def test_plain_questions_are_answered_in_their_order(folder):
    """The model copies the sixteen digits that end a question: so every answer is that of its own question."""
    digits = [f"{k:016x}" for k in (7, 0xABC, 1 << 40, 3, 99)]
    asked = [[{"role": "user", "content": f"longer {'x' * k}{text}"}] for k, text in enumerate(digits)]
    told = graders_of(folder).ask(judge(), asked, UNCOUNTED)
    assert [answer.status for answer in told] == ["ok"] * 5
    assert [answer.text[: len(OPEN) + 16] for answer in told] == [OPEN + text for text in digits]
    assert all((answer.calls, answer.cost_usd) == (1, None) and answer.tokens_out > 16 for answer in told)


def test_an_answer_that_does_not_end_is_none(folder):
    (answer,) = graders_of(folder).ask(
        judge(sampling={"max_tokens": 16}), [[{"role": "user", "content": "0" * 16}]], UNCOUNTED
    )
    assert (answer.status, answer.text) == ("judge_truncated", None)
    assert isinstance(answer, Told)


def test_asked_afresh_it_is_another_question_and_the_same_one_again(folder):
    """A model answers equal questions alike, so a fresh verdict must not be the stale one once more."""
    body = {"key": "nice", "weight": 1, "text": "nice?", "grader": {"type": "judge", "judge": JUDGE, "votes": 2}}
    (criterion,) = RubricContent.model_validate({"criteria": [body]}).criteria
    texts = [f"text {k}" for k in range(8)]

    def grade(afresh):
        batch = LocalBatch(
            PROMPT,
            texts,
            [(k, criterion) for k in range(8)],
            {},
            {JUDGE: judge(sampling={"temperature": 1.0})},
            afresh=afresh,
        )
        cells = sorted(graders_of(folder).grade(batch), key=lambda found: found[0])
        return [cell.score for _, cell in cells]

    stale, fresh = grade(False), grade(True)
    assert fresh == grade(True)
    assert stale == grade(False)
    assert stale != fresh
