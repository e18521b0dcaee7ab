"""Judges that are registered models: asked and read as every judge is, and the probabilities are the model's own."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from service.domain.checkpoint import file_entry
from service.domain.conversation import Message
from service.domain.judge import JudgeConfig
from service.domain.rubric import RubricContent
from service.model_files import model_paths
from tests.support.judge_model import CLOSE, MIDDLE, OPEN, TEMPLATE, make_judge_model
from workers.graders.local.graders import LocalBatch, LocalGraders, PinnedJudge
from workers.graders.local.token_texts import entries
from workers.policy.loading import ModelFiles
from workers.policy.tokenization import TokenizationError, encode_chat

PROMPT = {
    "messages": [{"role": "user", "content": "say something nice"}],
    "reference": None,
    "category": None,
    "metadata": {},
}
JUDGE = "jdg_0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_judge_model(tmp_path_factory.mktemp("judge"))


def files_of(folder):
    return ModelFiles("mdl_j", folder, [file_entry(folder, path) for path in model_paths(folder)])


def criterion(key="nice", grader=None, **more):
    body = {
        "key": key,
        "weight": 1,
        "text": "is it nice?",
        "grader": {"type": "judge", "judge": JUDGE, **(grader or {})},
        **more,
    }
    return RubricContent.model_validate({"criteria": [body]}).criteria[0]


def grade(folder, texts, *criteria, concurrency=16, check=lambda: None, **config):
    graders = LocalGraders(lambda model: files_of(folder), bound=1 << 30, device="cpu", check=check)
    judge = PinnedJudge(JUDGE, 3, JudgeConfig.model_validate({"model": "mdl_j", **config}), concurrency)
    todo = [(index, c) for index in range(len(texts)) for c in criteria or (criterion(),)]
    cells = graders.grade(LocalBatch(PROMPT, texts, todo, {}, {JUDGE: judge}, "be kind"))
    assert sorted((index, cell.criterion) for index, cell in cells) == sorted((index, c.key) for index, c in todo)
    return [cell for _, cell in sorted(cells, key=lambda found: found[0])]


def comparable(cells):
    return [cell.model_dump(exclude={"latency_ms"}) for cell in cells]


def test_a_verdict_is_read_as_any_judges(folder):
    (cell,) = grade(folder, ["lovely"])
    assert (cell.status, cell.score, cell.confidence, cell.confidence_source) == ("ok", 1.0, 0.8, "verbal")
    assert (cell.grader, cell.judge, cell.revision, cell.votes, cell.attempts) == ("judge", JUDGE, 3, 1, 1)
    assert cell.reasoning == "weighed"
    assert cell.fingerprint == JudgeConfig(model="mdl_j").fingerprint
    assert cell.tokens_out == 1 + 16 + 1 + 1 + 1 + 1  # OPEN, the nonce, MIDDLE, true, CLOSE, the end
    assert cell.tokens_in > 500
    (bad,) = grade(folder, ["lovely"], criterion(polarity="met_is_bad"))
    assert bad.score == 0.0


def test_confidence_by_tokens_is_the_models_own_probability(folder, tmp_path):
    # p(true) = .75 by the weights: score .75·1 + .25·0, confidence (2·.75 − 1)/(2 − 1)
    (cell,) = grade(folder, ["lovely"], criterion(grader={"confidence": "logprob"}))
    assert (cell.status, cell.confidence_source) == ("ok", "logprob")
    assert cell.score == pytest.approx(0.75, abs=1e-5)
    assert cell.confidence == pytest.approx(0.5, abs=1e-5)
    # and where `false` is likelier, p(true) = .1: the verdict is false, the score .1, the confidence .8
    doubtful = make_judge_model(tmp_path / "doubtful", p_true=0.1)
    (cell,) = grade(doubtful, ["lovely"], confidence="logprob")
    assert (cell.score, cell.confidence) == (pytest.approx(0.1, abs=1e-5), pytest.approx(0.8, abs=1e-5))
    (cell,) = grade(doubtful, ["lovely"])
    assert cell.score == 0.0


def test_a_batch_grades_every_text_as_if_alone_and_twice_alike(folder):
    texts = ["lovely", "", "a much longer text " * 20, "0123456789abcdef" * 4, "b"]
    together = grade(folder, texts, criterion(grader={"confidence": "logprob"}))
    assert {cell.status for cell in together} == {"ok"}
    assert comparable(together) == comparable(grade(folder, texts, criterion(grader={"confidence": "logprob"})))
    alone = [grade(folder, [text], criterion(grader={"confidence": "logprob"}))[0] for text in texts]
    few = grade(folder, texts, criterion(grader={"confidence": "logprob"}), concurrency=2)
    for cells in (alone, few):
        for one, other in zip(cells, together, strict=True):
            assert (one.score, one.confidence) == (
                pytest.approx(other.score, abs=1e-6),
                pytest.approx(other.confidence, abs=1e-6),
            )
            assert (one.tokens_in, one.tokens_out) == (other.tokens_in, other.tokens_out)


def test_votes_are_sampled_and_a_seed_repeats_them(folder):
    many = {"votes": 32, "sampling": {"temperature": 1.0}}
    (cell,) = grade(folder, ["lovely"], **many)
    assert 0.45 < cell.score < 0.98  # 32 draws of .75: more than four deviations of .077 to either side
    assert cell.vote_variance == pytest.approx(cell.score * (1 - cell.score) * 32 / 31, abs=1e-9)
    assert comparable([cell]) == comparable(grade(folder, ["lovely"], **many))
    seeds = {
        grade(folder, ["lovely"], votes=32, sampling={"temperature": 1.0, "seed": seed})[0].score for seed in range(6)
    }
    assert len(seeds) > 1


def test_what_the_judge_does_wrong_is_null(folder, tmp_path):
    (unasked,) = grade(folder, ["a"], criterion(key="other"))
    assert (unasked.status, unasked.family, unasked.score) == ("parse_error", "subject", None)
    (short,) = grade(folder, ["a"], sampling={"max_tokens": 16})
    assert (short.status, short.score) == ("judge_truncated", None)
    narrow = make_judge_model(tmp_path / "narrow", context=700)
    fits, long = grade(narrow, ["a", "b" * 700])
    assert (long.status, "context of 700" in long.reason) == ("judge_truncated", True)
    assert fits.status in ("ok", "judge_truncated")
    silent = make_judge_model(tmp_path / "silent", template=TEMPLATE + "<eos>")
    assert {cell.status for cell in grade(silent, ["a", "b"])} <= {"parse_error", "judge_truncated"}


def test_steps_are_asked_one_by_one(folder):
    (cell,) = grade(folder, ["one\n\ntwo\n\nthree"], criterion(scope="step"))
    assert [step.status for step in cell.steps] == ["ok"] * 3
    assert (cell.score, cell.tokens_out) == (1.0, 3 * 21)
    wrong, right = grade(
        folder, ["one\n\ntwo", "one"], criterion(key="nice", scope="step", step_separator=r"(a|aa)+\n\n")
    )
    assert (wrong.status, right.status) == ("ok", "ok")


def test_a_model_without_a_chat_template_cannot_be_asked(tmp_path):
    mute = make_judge_model(tmp_path / "mute", template=None)
    (cell,) = grade(mute, ["a"])
    assert (cell.status, cell.family) == ("infra_error", "infra")
    assert "chat template" in cell.reason


def test_changed_files_are_found_when_they_are_loaded(tmp_path):
    changed = make_judge_model(tmp_path / "changed")
    files = files_of(changed)
    (changed / "chat_template.jinja").write_text("x")
    graders = LocalGraders(lambda model: files, bound=1, device="cpu")
    judge = PinnedJudge(JUDGE, 1, JudgeConfig(model="mdl_j"), 1)
    ((_, cell),) = graders.grade(LocalBatch(PROMPT, ["a"], [(0, criterion())], {}, {JUDGE: judge}))
    assert (cell.status, "chat_template.jinja" in cell.reason) == ("infra_error", True)


def test_work_can_be_dropped_at_any_token(folder):
    class Dropped(Exception):
        pass

    calls = []

    def check():
        calls.append(1)
        if len(calls) == 5:
            raise Dropped

    with pytest.raises(ExceptionGroup) as caught:
        grade(folder, ["a", "b"], check=check)
    assert caught.value.subgroup(Dropped) is not None
    assert len(calls) == 5


def test_templates_without_a_system_role_get_it_with_the_first_message(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE
    )
    messages = [Message(role="system", content="ab"), Message(role="user", content="cd")]
    assert tokenizer.decode(encode_chat(tokenizer, messages)).count("<x>") == 1
    tokenizer.chat_template = "{{ raise_exception('never') }}"
    with pytest.raises(TokenizationError, match="never"):
        encode_chat(tokenizer, messages)


def test_tokens_tell_their_texts_across_characters():
    """A byte-level tokenizer: an umlaut is two tokens and a smile four, and words begin with their space."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {**{letter: k for k, letter in enumerate(alphabet)}, "Ġtrue": 300, "Ġfalse": 301}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    text = "ä: 🙂"
    ids = [*tokenizer(text)["input_ids"], 300]
    assert len(ids) == 2 + 1 + 1 + 4 + 1
    top = [[(token, -0.5), (301, -1.0), (ids[0], -2.0)] for token in ids]
    found = entries(tokenizer, ids, top)
    assert [entry["token"] for entry in found] == ["", "ä", ":", " ", "", "", "", "🙂", " true"]
    assert "".join(entry["token"] for entry in found) == text + " true"
    assert all(entry["logprob"] == -0.5 for entry in found)
    assert [other["token"] for other in found[2]["top_logprobs"]] == [":", " false", ""]
    assert found[2].get("bytes") is None


def test_the_model_of_these_tests_says_what_it_should(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    nonce = "00ff1234abcd9e77"
    ids = tokenizer(f"some words, the nonce: {nonce}<x><g>", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = model.generate(ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(out, skip_special_tokens=True) == OPEN + nonce + MIDDLE + "true" + CLOSE
