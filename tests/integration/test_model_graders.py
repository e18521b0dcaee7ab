"""Graders that are models, through the whole stack: their scores are transformers' own numbers, and what is pinned stays."""

import json
import math
from pathlib import Path

import psycopg
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from service.client import ApiError
from tests.integration.conftest import CONTAINS
from tests.support.gradings import cell, ended, grade, results
from tests.support.judge_model import make_judge_model
from tests.support.models import make_reward_model
from tests.support.stack import wait_for


@pytest.fixture
def reward(bench, stack):
    """A registered reward model with constants, and its folder."""
    bench.model()
    folder = stack.folder / "bench-reward"
    if not folder.exists():
        make_reward_model(stack.folder / "bench-model-0", folder)
    constants = {"mean": 1.0, "std": 2.0}
    return bench.api.register_model("rm", {"path": str(folder)}, kind="reward", normalisation=constants)["id"], folder


def rm(model, **changes):
    return {"key": "rm", "weight": 2, "grader": {"type": "reward_model", "model": model}, **changes}


def score_of(folder, prompt, text):
    """sigmoid((x − 1)/2) of transformers' own output for one row: the prompt's words, the answer's, the end token."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    ids = [*tokenizer(prompt)["input_ids"], *tokenizer(text)["input_ids"], 1]
    with torch.no_grad():
        x = model(input_ids=torch.tensor([ids])).logits.item()
    return 1 / (1 + math.exp(-(x - 1) / 2))


def test_a_job_trains_on_a_reward_model_and_a_composite(bench, api, reward):
    model, folder = reward
    composite = {
        "type": "composite", "formula": "0.5 * rm + 0.5 * max(short, like)",
        "graders": {"rm": {"type": "reward_model", "model": model}, "short": {"type": "regex", "pattern": "^.{0,3}$"},
                    "like": {"type": "similarity", "metric": "rouge_1", "reference": "{{ prompt.reference }}"}},
    }  # fmt: skip
    rubric = bench.rubric(CONTAINS, rm(model), {"key": "both", "weight": 1, "grader": composite})
    job_id = bench.submit(rubric=rubric, training={"steps": 3})
    api.patch(
        f"/v1/models/{model}", {"normalisation": {"mean": -50, "std": 0.001}}
    )  # after the submit: not for this job
    job = bench.finish(job_id)
    sha256 = api.get(f"/v1/models/{model}")["sha256"]
    assert job["models"] == {model: {"kind": "reward", "sha256": sha256, "normalisation": {"mean": 1.0, "std": 2.0}}}
    rows = list(api.pages(f"/v1/jobs/{job['id']}/completions", limit=100))
    assert len(rows) == 3 * 3 * 4
    for row in rows:
        cells = {cell["criterion"]: cell for cell in row["cells"]}
        assert {cell["status"] for cell in cells.values()} == {"ok"}
        assert (cells["rm"]["confidence"], cells["rm"]["confidence_source"]) == (1.0, "reward_model")
        expected = score_of(folder, row["prompt"]["messages"][0]["content"], row["text"])
        assert cells["rm"]["score"] == pytest.approx(expected, abs=1e-5)
        said = dict(part.split(" = ") for part in cells["both"]["reason"].split(", "))
        assert float(said["rm"]) == pytest.approx(expected, abs=1e-5)
        value = 0.5 * cells["rm"]["score"] + 0.5 * max(float(said["short"]), float(said["like"]))
        assert cells["both"]["score"] == pytest.approx(value, abs=1e-5)
    assert set(bench.series(job["id"], "score.rm")) == {1, 2, 3}
    assert not [e for e in bench.events(job_id) if e["type"] == "job.warning"]


def test_two_jobs_on_one_reward_model_end_with_the_same_bytes(bench, reward):
    shared = {"model": bench.model(), "prompts": bench.prompts(), "rubric": bench.rubric(rm(reward[0]))}
    first, second = (bench.run(**shared, training={"steps": 3}) for _ in range(2))
    assert bench.weights(first) == bench.weights(second)


def test_a_reward_model_without_constants_is_warned_of(bench, api, reward):
    model = api.register_model("bare", {"path": str(reward[1])}, kind="reward")["id"]
    job = bench.run(rubric=bench.rubric(rm(model)), training={"steps": 1})
    (warning,) = [e["data"] for e in bench.events(job["id"]) if e["type"] == "job.warning"]
    assert (warning["code"], warning["model"]) == ("no_normalisation", model)


def test_a_reward_model_that_we_trained_brings_its_constants_and_grades(bench, api, reward):
    dataset = api.post("/v1/datasets", {"name": "pairs", "kind": "preferences"})["id"]
    api.upload_rows(
        dataset, [{"prompt": f"{a} {b}", "chosen": a, "rejected": f"{b} {b} {a}"} for a in "abcdef" for b in "ghijkl"]
    )
    spec = {
        "name": "rm", "algorithm": {"type": "reward_model"}, "policy": {"model": bench.model()},
        "data": {"preferences": dataset}, "training": {"steps": 4, "batch_size": 8, "learning_rate": 0.01},
    }  # fmt: skip
    trained = bench.finish(api.post("/v1/jobs", spec)["id"])
    model = api.get(f"/v1/models/{trained['result']['model']}")
    measured = {name: bench.series(trained["id"], f"evaluation.reward_{name}")[4] for name in ("mean", "std")}
    assert (model["kind"], model["normalisation"], model["warnings"]) == ("reward", measured, [])
    job = bench.run(rubric=bench.rubric(rm(model["id"])), training={"steps": 1})
    scores = [c["score"] for row in api.pages(f"/v1/jobs/{job['id']}/completions", limit=100) for c in row["cells"]]
    assert all(0 < score < 1 for score in scores)
    with pytest.raises(ApiError) as caught:
        api.post(
            "/v1/models",
            {"name": "x", "kind": "policy", "source": {"checkpoint": trained["result"]["last_checkpoint"]}},
        )
    assert caught.value.code == "wrong_kind"


def test_a_reward_model_whose_files_change_ends_the_job(bench, api, stack, reward):
    folder = stack.folder / "bench-reward-changing"
    make_reward_model(stack.folder / "bench-model-0", folder, seed=9)
    model = api.register_model("rm", {"path": str(folder)}, kind="reward")["id"]
    rubric = bench.rubric(rm(model))
    make_reward_model(stack.folder / "bench-model-0", folder, seed=10)
    job = bench.finish(bench.submit(rubric=rubric), expected="failed")
    assert job["error"]["code"] == "model_changed"
    assert model in job["error"]["message"]


def test_gradings_ask_a_worker_that_starts_when_it_is_needed(bench, api, stack, reward):
    model, folder = reward
    own = {"key": "own", "weight": 1, "grader": {"type": "composite", "formula": "1 - rm", "graders": {
        "rm": {"type": "reward_model", "model": model}}}}  # fmt: skip
    rubric = bench.rubric(CONTAINS, rm(model))
    texts = [
        {"prompt": {"prompt": "a b", "reference": "a", "criteria": [own]}, "text": text}
        for text in ("a", "c d e", "f a")
    ]
    _, rows = grade(api, {"rubric": {"id": rubric}, "texts": texts}, timeout_s=120)
    for row, text in zip(rows, texts, strict=True):
        cells = {cell["criterion"]: cell for cell in row["cells"]}
        expected = score_of(folder, "a b", text["text"])
        assert cells["rm"]["score"] == pytest.approx(expected, abs=1e-5)
        assert cells["prompt.own"]["score"] == pytest.approx(1 - expected, abs=1e-5)
        assert cells["has"]["score"] == float("a" in text["text"])
    assert len(stack.pids("grading_local")) == 1
    # killed, it comes back, and what waits is graded
    stack.kill("grading_local")
    _, (row,) = grade(api, {"rubric": {"id": rubric}, "texts": [{**texts[0], "text": "h i"}]}, timeout_s=120)
    assert cell(row, "rm")["score"] == pytest.approx(score_of(folder, "a b", "h i"), abs=1e-5)


def test_gradings_name_reward_models_that_exist(bench, api, reward):
    own = {"key": "own", "weight": 1, "grader": {"type": "reward_model", "model": "mdl_none"}}
    with pytest.raises(ApiError) as caught:
        api.post("/v1/gradings", {"rubric": {"id": bench.rubric(CONTAINS)}, "texts": [
            {"prompt": {"prompt": "a b", "reference": "a", "criteria": [own]}, "text": "x"}]})  # fmt: skip
    fault = caught.value.errors[0]
    assert (fault["pointer"], fault["code"]) == ("/texts/0/prompt/criteria/0/grader/model", "not_found")


def test_a_prompts_own_reward_model_is_pinned_with_the_job(bench, api, reward):
    own = {"weight": 1, "grader": {"type": "reward_model", "model": reward[0]}}
    prompts = bench.prompts([{"prompt": f"{a} b", "reference": a, "criteria": [own]} for a in "acd"])
    job = bench.run(prompts=prompts, rubric=bench.rubric(CONTAINS), training={"steps": 1})
    for row in api.pages(f"/v1/jobs/{job['id']}/completions", limit=100):
        cells = {cell["criterion"]: cell for cell in row["cells"]}
        expected = score_of(reward[1], row["prompt"]["messages"][0]["content"], row["text"])
        assert cells["prompt.0"]["score"] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ApiError) as caught:
        missing = {"weight": 1, "grader": {"type": "reward_model", "model": "mdl_none"}}
        bench.submit(
            prompts=bench.prompts([{"prompt": "a", "reference": "a", "criteria": [missing]}]),
            rubric=bench.rubric(CONTAINS),
        )
    assert (caught.value.errors[0]["pointer"], caught.value.errors[0]["code"]) == ("/data/prompts", "not_found")


@pytest.fixture
def local_judge(api, stack):
    """A judge that is a registered model and says `true` with probability .75."""
    folder = stack.folder / "bench-judge"
    if not folder.exists():
        make_judge_model(folder)
    model = api.register_model("judge", {"path": str(folder)})["id"]
    return api.post("/v1/judges", {"name": "local", "model": model, "confidence": "logprob"})["id"]


def test_a_job_with_a_local_judge_a_reward_model_and_a_composite(bench, api, reward, local_judge):
    composite = {"type": "composite", "formula": "min(rm, short)", "graders": {
        "rm": {"type": "reward_model", "model": reward[0]}, "short": {"type": "regex", "pattern": "^.{0,9}$"}}}  # fmt: skip
    rubric = bench.rubric(
        CONTAINS, rm(reward[0]), {"key": "both", "weight": 1, "grader": composite}, bench.judged(local_judge)
    )
    shared = {"model": bench.model(), "prompts": bench.prompts(), "rubric": rubric, "training": {"steps": 3}}
    job = bench.run(**shared)
    rows = list(api.pages(f"/v1/jobs/{job['id']}/completions", limit=100))
    assert len(rows) == 3 * 3 * 4
    for row in rows:
        assert {c["criterion"]: c["status"] for c in row["cells"]} == dict.fromkeys(("has", "rm", "both", "nice"), "ok")
        said = cell(row, "nice")
        # the model's own probability: .75·1 + .25·0, and (2·.75 − 1)/(2 − 1)
        assert (said["score"], said["confidence"]) == (pytest.approx(0.75, abs=1e-5), pytest.approx(0.5, abs=1e-5))
        assert (said["confidence_source"], said["reasoning"], said["judge"]) == ("logprob", "weighed", local_judge)
        assert (said["revision"], said["attempts"], said["tokens_out"]) == (1, 1, 21)
        assert row["weighting"]["nice"]["mean_confidence"] == pytest.approx(0.5, abs=1e-5)
    # nothing in it depends on when it ran: an equal job ends with the same bytes
    assert bench.weights(bench.run(**shared)) == bench.weights(job)


def test_a_worker_that_is_killed_in_mid_batch_is_made_good(bench, api, stack, local_judge):
    rubric = bench.rubric(CONTAINS, bench.judged(local_judge))
    texts = [{"prompt": {"prompt": "a b", "reference": "a"}, "text": "x " * k} for k in range(48)]
    grading = api.post("/v1/gradings", {"rubric": {"id": rubric}, "texts": texts})["id"]
    wait_for(lambda: stack.pids("grading_local"), 60, "the worker of local models")
    stack.kill("grading_local")
    ended(api, grading, timeout_s=120)
    rows = results(api, grading)
    assert len(rows) == 48
    assert {cell(row, "nice")["status"] for row in rows} == {"ok"}


def test_a_job_whose_judge_is_no_chat_model_ends_at_once(bench, api):
    judge = api.post("/v1/judges", {"name": "mute", "model": bench.model()})["id"]
    job = bench.finish(bench.submit(rubric=bench.rubric(CONTAINS, bench.judged(judge))), expected="failed")
    assert (job["error"]["code"], "chat template" in job["error"]["message"]) == ("model_invalid", True)


def superuser(stack):
    """A connection to the stack's own Postgres, past every rule."""
    secrets = json.loads((stack.folder / "secrets.json").read_text())
    (pid,) = stack.pids("postgres")
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    port = next(word for word in words if word.startswith("port=")).removeprefix("port=")
    return psycopg.connect(f"postgresql://postgres:{secrets['postgres']}@127.0.0.1:{port}/grape", autocommit=True)


def test_a_model_that_is_still_being_registered_holds_jobs_and_refuses_gradings(bench, api, stack, reward):
    model = api.register_model("late", {"path": str(reward[1])}, kind="reward")["id"]
    rubric = bench.rubric(CONTAINS, rm(model))
    with superuser(stack) as database:
        waiting = "status = 'registering', sha256 = NULL, files = NULL, lease_expires_at = now() + interval '1 hour'"
        database.execute(f"UPDATE models SET {waiting} WHERE id = %s", [model])
        texts = [{"prompt": {"prompt": "a b", "reference": "a"}, "text": "c"}]
        with pytest.raises(ApiError) as caught:
            api.post("/v1/gradings", {"rubric": {"id": rubric}, "texts": texts})
        assert caught.value.code == "model_registering"
        job_id = bench.submit(rubric=rubric, training={"steps": 1})
        wait_for(lambda: "registered" in (api.get(f"/v1/jobs/{job_id}")["status_reason"] or ""), 60, "the job waits")
        database.execute("UPDATE models SET lease_expires_at = NULL WHERE id = %s", [model])
    job = bench.finish(job_id)
    assert job["models"][model]["sha256"] == api.get(f"/v1/models/{model}")["sha256"]
