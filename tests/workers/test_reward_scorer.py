"""Reward models as graders: the right token, whatever stands beside it; constants; and no number from a model that cannot be trusted."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from service.domain.checkpoint import file_entry
from service.domain.job_state import JobFailure
from service.domain.model import UNNORMALISED, Normalisation
from service.domain.rubric import RubricContent
from service.model_files import model_paths
from tests.support.models import make_reward_model
from tests.support.training import spec_of
from workers.graders.here import grade_here
from workers.graders.local.graders import LocalBatch, LocalGraders
from workers.graders.local.reward import RewardScorer, load_reward_model, normalised
from workers.graders.local.shelf import Shelf
from workers.graders.models import GraderFault
from workers.graders.rubric import RubricGrader
from workers.policy.loading import ModelFiles
from workers.policy.tokenization import encode_preference
from workers.types import Completion, CompletionGroup, Prompt

CHAT = "{% for m in messages %}<unk> {{ m.role[0] }} {{ m.content }}<eos>z{% endfor %}{% if add_generation_prompt %}<unk> a {% endif %}"
PROMPT = {"messages": [{"role": "user", "content": "a b c"}], "form": "text"}
TEXTS = ["d", "e f g h i j k", "l m", "", "n o p q"]


def files_of(folder, model_id="mdl_r", base=None):
    return ModelFiles(model_id, folder, [file_entry(folder, path) for path in model_paths(folder)], base)


@pytest.fixture(params=["tiny_folder", "gpt2_folder"])
def reward_folder(request, tmp_path):
    """A llama-style model, and a GPT-2 whose padding is its end token."""
    return make_reward_model(request.getfixturevalue(request.param), tmp_path / "reward")


@pytest.fixture
def llama(tiny_folder, tmp_path):
    return make_reward_model(tiny_folder, tmp_path / "reward")


def scorer(*folders, constants=UNNORMALISED, bound=None):
    models = {f"mdl_{k}": files_of(folder, f"mdl_{k}") for k, folder in enumerate(folders)}
    return RewardScorer(models.__getitem__, lambda model: constants, Shelf(bound), torch.device("cpu"))


def alone(folder, ids):
    """What transformers itself gives for one row without padding."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    model.config.pad_token_id = None  # else it would read the token before the end where the end token pads
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits.item()


def test_outputs_are_those_of_transformers_for_each_row_alone(reward_folder):
    model = load_reward_model(files_of(reward_folder), torch.device("cpu"))
    rows = [model.encode(PROMPT, text) for text in TEXTS]
    assert len({len(row) for row in rows}) == 5
    assert rows[0] == [3, 4, 5, 6, 1]  # a b c, d, and the end token
    expected = [alone(reward_folder, row) for row in rows]
    assert len({round(x, 3) for x in expected}) == 5
    assert model.outputs(rows) == pytest.approx(expected, abs=1e-5)
    for side in ("left", "right"):
        model.tokenizer.padding_side = side
        assert model.outputs(rows[::-1]) == pytest.approx(expected[::-1], abs=1e-5)
        assert [model.outputs([row])[0] for row in rows] == pytest.approx(expected, abs=1e-5)


def test_a_long_list_is_cut_and_keeps_its_order(llama):
    model = load_reward_model(files_of(llama), torch.device("cpu"))
    rows = [model.encode(PROMPT, text) for text in TEXTS * 3]
    whole = model.outputs(rows)
    model.budget = 20
    assert model.outputs(rows) == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize(
    ("x", "mean", "std", "expected"),
    [
        (3.0, 1.0, 2.0, 0.7310585786300049),  # sigmoid(1)
        (-3.0, 1.0, 2.0, 0.11920292202211755),  # sigmoid(-2)
        (1.0, 1.0, 0.5, 0.5),
        (1e308, -1e9, 1e-3, 1.0),
        (-1e308, 1e9, 1.0, 0.0),
    ],
)
def test_scores_are_sigmoids_of_normalised_outputs(x, mean, std, expected):
    assert normalised(x, Normalisation(mean=mean, std=std)) == pytest.approx(expected, abs=1e-15)


def test_constants_are_used(llama):
    x = load_reward_model(files_of(llama), torch.device("cpu")).outputs([[3, 4, 5, 6, 1]])[0]
    (found,) = scorer(llama, constants=Normalisation(mean=2.0, std=3.0)).score("mdl_0", PROMPT, ["d"])
    assert found == pytest.approx(1 / (1 + math.exp(-(x - 2) / 3)), abs=1e-6)


def test_not_a_number_is_an_invalid_score(llama):
    weights = load_file(llama / "model.safetensors")
    weights["score.weight"][0, 0] = float("nan")
    save_file(weights, llama / "model.safetensors", metadata={"format": "pt"})
    (found,) = scorer(llama).score("mdl_0", PROMPT, ["d"])
    assert isinstance(found, GraderFault)
    assert found.status == "invalid_score"


def test_a_template_is_read_to_its_end_and_several_messages_need_one(tiny_folder, tmp_path):
    plain = make_reward_model(tiny_folder, tmp_path / "plain")
    chat = make_reward_model(tiny_folder, tmp_path / "chat", template=CHAT)
    turns = {"messages": [{"role": "system", "content": "b"}, {"role": "user", "content": "c"}]}
    model = load_reward_model(files_of(chat), torch.device("cpu"))
    z = model.tokenizer.convert_tokens_to_ids("z")
    ids = model.encode(turns, "d")
    assert (ids[-2:], len(ids)) == ([1, z], 15)
    assert model.encode(PROMPT, "d")[0] == 2  # a plain prompt too
    (found,) = scorer(plain).score("mdl_0", turns, ["d"])
    assert (found.status, "chat template" in found.reason) == ("infra_error", True)


def test_what_does_not_fit_into_the_context_is_no_score_and_hurts_nobody_else(llama):
    found = scorer(llama).score("mdl_0", PROMPT, ["d", "a " * 100, "e"])
    assert (found[1].status, "context of 64" in found[1].reason) == ("judge_truncated", True)
    assert found[::2] == pytest.approx(scorer(llama).score("mdl_0", PROMPT, ["d", "e"]), abs=1e-6)


def test_models_that_would_score_at_random_or_twice_are_refused(tiny_folder, tmp_path):
    headless = tmp_path / "headless"
    shutil.copytree(tiny_folder, headless)
    config = json.loads((headless / "config.json").read_text())
    config |= {
        "architectures": ["LlamaForSequenceClassification"],
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }
    (headless / "config.json").write_text(json.dumps(config))
    two = make_reward_model(tiny_folder, tmp_path / "two", labels=2)
    for folder, said in ((headless, r"no weights for score\.weight"), (two, "2 outputs")):
        with pytest.raises(JobFailure, match=said) as caught:
            load_reward_model(files_of(folder), torch.device("cpu"))
        assert caught.value.code == "model_invalid"


def test_changed_files_are_found_when_they_are_loaded(llama):
    files = files_of(llama)
    with (llama / "model.safetensors").open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x00")
    with pytest.raises(JobFailure) as caught:
        load_reward_model(files, torch.device("cpu"))
    assert caught.value.code == "model_changed"
    found = RewardScorer(lambda _: files, lambda _: UNNORMALISED, Shelf()).score("mdl_r", PROMPT, ["a", "b"])
    assert [fault.status for fault in found] == ["infra_error"] * 2


@pytest.mark.parametrize("adapter", [None, {"type": "lora", "r": 4}], ids=["full", "lora"])
@pytest.mark.parametrize("shape", ["text", "messages"])
def test_our_own_reward_models_read_what_they_were_trained_on(tiny_folder, tmp_path, load_reward, adapter, shape):
    from service.domain.dataset import PreferenceRow
    from tests.support.training import run_of
    from workers.algorithms.base import Preference, pairs_of

    base = tmp_path / "base"
    shutil.copytree(tiny_folder, base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(base)
    spec = spec_of("reward_model", adapter=adapter, training={"steps": 3, "learning_rate": 0.01})
    policy = load_reward(base, adapter=spec.adapter)
    run_of(policy, spec).go()
    saved = tmp_path / "saved"
    policy.save(saved)
    body = {"prompt": "a b c", "chosen": "d e", "rejected": "f"}
    if shape == "messages":
        body = {
            "prompt": [{"role": "user", "content": "a b c"}],
            "chosen": [{"role": "assistant", "content": "d e"}],
            "rejected": [{"role": "assistant", "content": "f"}],
        }
    ids = encode_preference(policy.tokenizer, PreferenceRow.model_validate(body), policy.eos_ids)
    with torch.no_grad():
        expected = policy.pair_rewards(pairs_of([Preference("x", *ids, 0.0)])).tolist()
    model = load_reward_model(files_of(saved, base=files_of(base) if adapter else None), torch.device("cpu"))
    view = {"messages": [{"role": "user", "content": "a b c"}], "form": shape}
    assert model.outputs([model.encode(view, text) for text in ("d e", "f")]) == pytest.approx(expected, abs=1e-5)


def test_the_shelf_keeps_what_was_used_last_within_its_bound(tiny_folder, tmp_path):
    folders = [make_reward_model(tiny_folder, tmp_path / str(k), seed=k) for k in range(3)]
    keys = [f"reward/{files_of(folder).hash}" for folder in folders]
    assert len(set(keys)) == 3
    size = load_reward_model(files_of(folders[0]), torch.device("cpu")).bytes
    room = scorer(*folders, bound=int(2.5 * size))
    first = room.load("mdl_0")
    room.load("mdl_1")
    assert room.load("mdl_0") is first
    room.load("mdl_2")
    assert [key in room.shelf for key in keys] == [True, False, True]
    small = scorer(*folders, bound=1)
    small.load("mdl_0")
    small.load("mdl_1")
    assert [key in small.shelf for key in keys] == [False, True, False]


def test_a_group_is_scored_at_once_and_composites_see_it(llama):
    content = RubricContent.model_validate(
        {
            "criteria": [
                {"key": "rm", "weight": 1, "grader": {"type": "reward_model", "model": "mdl_0"}},
                {
                    "key": "both", "weight": 1,
                    "grader": {"type": "composite", "formula": "0.5 * rm + 0.5 * d",
                               "graders": {"rm": {"type": "reward_model", "model": "mdl_0"}, "d": {"type": "exact", "reference": "d"}}},
                },
            ]
        }
    )  # fmt: skip
    assert content.reward_models() == ["mdl_0"]
    room = scorer(llama)
    grading = RubricGrader(content, "h", desk=None, scorer=room).start("train", 1)
    group = CompletionGroup(
        Prompt("p", [], PROMPT), [Completion([1], [0.0], "stop", text) for text in ("d", "e", "a " * 100)]
    )
    grading.submit(group)
    scores = room.score("mdl_0", PROMPT, ["d", "e", "a " * 100])
    for row, score, exact in zip(group.cells[:2], scores[:2], (1.0, 0.0), strict=True):
        assert (row["rm"].score, row["rm"].confidence, row["rm"].confidence_source) == (score, 1.0, "reward_model")
        assert row["both"].score == pytest.approx(0.5 * score + 0.5 * exact, abs=1e-12)
    assert [(c.status, c.family, c.score) for c in group.cells[2].values()] == [
        ("judge_truncated", "subject", None)
    ] * 2
    assert group.cells[2]["both"].reason.startswith("'rm': ")
    assert not group.criteria[0].judged


def test_a_step_is_read_with_what_stands_before_it(llama):
    content = RubricContent.model_validate(
        {
            "criteria": [
                {"key": "rm", "weight": 1, "scope": "step", "grader": {"type": "reward_model", "model": "mdl_0"}}
            ]
        }
    )
    room = scorer(llama)
    (row,) = grade_here(content.criteria, PROMPT, ["d e\n\nf\n\ng h"], room)
    expected = room.score("mdl_0", PROMPT, ["d e", "d e\n\nf", "d e\n\nf\n\ng h"])
    assert [step.score for step in row["rm"].steps] == pytest.approx(expected, abs=1e-6)
    assert row["rm"].score == pytest.approx(sum(expected) / 3, abs=1e-6)
    assert row["rm"].confidence_source == "reward_model"


def test_a_worker_of_local_models_grades_a_batch_as_a_child_would(llama, tmp_path):
    content = RubricContent.model_validate(
        {
            "criteria": [
                {"key": "rm", "weight": 1, "grader": {"type": "reward_model", "model": "mdl_0"}},
                {"key": "inv", "weight": 1, "grader": {"type": "composite", "formula": "1 - rm", "graders": {
                    "rm": {"type": "reward_model", "model": "mdl_0"}}}},
            ]
        }
    )  # fmt: skip
    rm, inv = content.criteria
    graders = LocalGraders(lambda model: files_of(llama, model), bound=1 << 30, device="cpu")
    models = {"mdl_0": {"kind": "reward", "sha256": None, "normalisation": {"mean": 1.0, "std": 2.0}}}
    todo = [(0, rm), (0, inv), (1, rm), (1, inv), (3, rm)]
    cells = {(index, cell.criterion): cell for index, cell in graders.grade(LocalBatch(PROMPT, TEXTS, todo, models))}
    assert set(cells) == {(index, c.key) for index, c in todo}
    expected = scorer(llama, constants=Normalisation(mean=1.0, std=2.0)).score("mdl_0", PROMPT, TEXTS)
    for index in (0, 1, 3):
        assert cells[index, "rm"].score == pytest.approx(expected[index], abs=1e-5)
    assert cells[1, "inv"].score == pytest.approx(1 - expected[1], abs=1e-5)
