"""The first full path over HTTP, with every process as in `grape up`: rubric in, better model out, every number traceable."""

import math

import pytest

from service.client import ApiError, Corrupt
from service.domain.scoring import CriterionWeight, ScoredCell, ScoringOptions, score_group
from tests.support.judge import verdict
from tests.support.stack import wait_for


def test_sft_then_grape_then_evaluate(bench, judge, api, tmp_path):
    judge.answer = lambda q: verdict(q, len(q.answer) < 6, 0.25 + 0.5 * (len(q.answer) % 2), f"{len(q.answer)} letters")
    sft = bench.run("sft", training={"steps": 30, "learning_rate": 0.01})
    losses = bench.series(sft["id"], "loss")
    assert list(losses) == list(range(1, 31))
    assert losses[30] < losses[1]
    rubric = bench.rubric(
        {"key": "has", "weight": 2, "grader": {"type": "contains", "values": ["{{ prompt.reference }}"]}},
        bench.judged(bench.judge(judge)),
        {"key": "one", "audit": True, "grader": {"type": "exact", "reference": "{{ prompt.reference }}"}},
    )
    job = bench.run(
        model=sft["result"]["model"], rubric=rubric, training={"steps": 6, "learning_rate": 0.003},
        evaluation={"prompts": bench.prompts(), "every_steps": 3}, checkpoints={"every_steps": 2, "keep": 2},
    )  # fmt: skip
    assert job["progress"] == {"step": 6, "steps": 6}
    assert job["attempt"] == 1
    assert set(bench.series(job["id"], "evaluation.plain_reward")) == {0, 3, 6}
    for name in ("loss", "reward", "plain_reward", "audit.one", "score.nice", "confidence.nice", "share.nice", "entropy",
                 "completion_length", "null_cells", "coverage", "groups_without_signal",
                 "effective_criteria", "grad_norm", "learning_rate", "tokens_per_s"):  # fmt: skip
        assert set(bench.series(job["id"], name)) == set(range(1, 7)), name
    assert max(bench.series(job["id"], "sampler_gap").values()) < 1e-5
    assert set(bench.series(job["id"], "clip_fraction").values()) == {0.0}  # one update per rollout: the ratio is 1
    check_numbers(bench, job)
    check_critiques(api, job)
    check_checkpoints(api, job, tmp_path)
    evaluated = bench.run(
        "evaluate", model=job["result"]["model"], rubric=rubric, rollout={"temperature": 1.0, "group_size": 2}
    )
    scorecard = evaluated["result"].pop("scorecard")
    assert evaluated["result"] == {"model": None, "best_checkpoint": None, "last_checkpoint": None}
    plain = bench.series(evaluated["id"], "evaluation.plain_reward")[0]
    assert scorecard["overall"]["plain_reward"]["mean"] == pytest.approx(plain, abs=1e-12)
    assert 0 <= bench.series(evaluated["id"], "evaluation.plain_reward")[0] <= 1
    shown = list(api.pages(f"/v1/jobs/{evaluated['id']}/completions", purpose="evaluation", limit=100))
    assert len(shown) == 24
    assert api.get(f"/v1/jobs/{evaluated['id']}/completions")["data"] == []


def check_numbers(bench, job):
    """Anyone can compute every reward, advantage and part of a group from its cells."""
    rows = list(bench.api.pages(f"/v1/jobs/{job['id']}/completions", limit=50))
    assert len(rows) == 6 * 3 * 4
    keys = [(r["step"], r["group"], r["index"]) for r in rows]
    assert len(set(keys)) == len(keys)
    assert [r["step"] for r in rows] == sorted(r["step"] for r in rows)
    groups = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    criteria = [
        CriterionWeight("has", 2.0, judged=False), CriterionWeight("nice", 1.0), CriterionWeight("one", 1.0, judged=False, audit=True),
    ]  # fmt: skip
    for members in groups.values():
        cells = [
            {c["criterion"]: ScoredCell(c["score"], c["confidence"]) for c in r["cells"] if c["score"] is not None}
            for r in members
        ]
        again = score_group(criteria, cells, ScoringOptions())
        for row, numbers in zip(members, again.completions, strict=True):
            for name in (
                "reward",
                "plain_reward",
                "unscaled_advantage",
                "scale_factor",
                "advantage",
                "parts",
                "coverage",
                "member",
            ):
                assert row[name] == getattr(numbers, name), name
            assert row["signal"] == again.signal
            assert row["weighting"]["nice"]["mean_confidence"] == again.weighting["nice"].mean_confidence
            assert math.fsum(row["parts"].values()) == pytest.approx(row["unscaled_advantage"], abs=1e-9)
            assert row["token_count"] == len(row["token_ids"])
    one = bench.api.get(f"/v1/completions/{rows[0]['id']}")
    assert one == rows[0]
    filtered = bench.api.get(f"/v1/jobs/{job['id']}/completions", step=2, reward_gte=0.5, sort="-reward", limit=100)[
        "data"
    ]
    assert all(r["step"] == 2 and r["reward"] >= 0.5 for r in filtered)
    assert [r["reward"] for r in filtered] == sorted((r["reward"] for r in filtered), reverse=True)


def check_critiques(api, job):
    found = list(api.pages("/v1/critiques", job=job["id"], criterion="nice", limit=100))
    assert len(found) >= 6 * 3 * 4
    assert all(c["text"].endswith("letters") for c in found)
    assert api.get(f"/v1/critiques/{found[0]['id']}") == found[0]
    completion = api.get(f"/v1/completions/{found[0]['completion']}")
    assert any(c["critique"] == found[0]["id"] and c["reasoning"] == found[0]["text"] for c in completion["cells"])
    assert api.get("/v1/critiques", job=job["id"], q="no such words")["data"] == []


def check_checkpoints(api, job, tmp_path):
    from transformers import AutoModelForCausalLM

    listed = list(api.pages(f"/v1/jobs/{job['id']}/checkpoints"))
    assert listed[-1]["step"] == 6
    assert job["result"]["last_checkpoint"] == listed[-1]["id"]
    assert 2 <= len(listed) <= 3  # the newest two, and the best
    best = max(listed, key=lambda c: (c["metrics"].get("evaluation.plain_reward", -1), c["step"]))
    assert job["result"]["best_checkpoint"] == best["id"]
    folder = tmp_path / "out"
    api.download_checkpoint(listed[-1]["id"], folder)
    AutoModelForCausalLM.from_pretrained(folder)
    # a download that was broken off goes on, one that was damaged is refused
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.unlink()
    (folder / "model.safetensors.part").write_bytes(whole[: len(whole) // 2])
    api.download_checkpoint(listed[-1]["id"], folder)
    assert weights.read_bytes() == whole
    weights.unlink()
    (folder / "model.safetensors.part").write_bytes(b"x" + whole[1:])
    with pytest.raises(Corrupt):
        api.download_checkpoint(listed[-1]["id"], folder)
    path = f"/v1/checkpoints/{listed[-1]['id']}/files/model.safetensors"
    head = api.request("HEAD", path)
    assert int(head.headers["content-length"]) == len(whole)
    digest = next(f["sha256"] for f in listed[-1]["files"] if f["path"] == "model.safetensors")
    assert head.headers["etag"] == f'"{digest}"'
    piece = api.request("GET", path, headers={"Range": "bytes=5-9"})
    assert (piece.status_code, piece.content) == (206, whole[5:10])
    assert api.request("GET", path, headers={"Range": "bytes=-4"}).content == whole[-4:]
    with pytest.raises(ApiError) as caught:
        api.request("GET", path, headers={"Range": f"bytes={len(whole)}-"})
    assert (caught.value.status, caught.value.code) == (416, "range_not_satisfiable")
    for ignored in ("bytes=9-5", "bytes=", "bytes=x-", "lines=1-2", "bytes=1-2,4-5"):
        assert api.request("GET", path, headers={"Range": ignored}).content == whole
    old = {"Range": f"bytes={len(whole)}-", "If-Range": '"another"'}
    assert api.request("GET", path, headers=old).content == whole
    with pytest.raises(ApiError):
        api.get(f"/v1/checkpoints/{listed[-1]['id']}/files/../../../secrets.json")


def test_a_checkpoint_that_became_a_model_stays_while_its_job_prunes(bench, api):
    job_id = bench.submit(
        rubric=bench.rubric(),
        training={"steps": 40},
        checkpoints={"every_steps": 2, "keep": 1},
        rollout={"group_size": 8},
    )
    (first, *_) = wait_for(
        lambda: list(api.pages(f"/v1/jobs/{job_id}/checkpoints")), 60, "a checkpoint is listed", every_s=0.02
    )
    model = api.post(f"/v1/checkpoints/{first['id']}/promote", {"name": "early"})
    job = bench.finish(job_id)
    listed = [c["id"] for c in api.pages(f"/v1/jobs/{job_id}/checkpoints")]
    assert listed == [first["id"], job["result"]["last_checkpoint"]]
    bench.run("evaluate", model=model["id"])


def test_events_stream_and_resume(bench, api):
    job_id = bench.submit(training={"steps": 3})
    streamed = list(api.events(job_id))
    assert [e["seq"] for e in streamed] == list(range(1, len(streamed) + 1))
    types = [e["type"] for e in streamed]
    assert types == [
        "job.queued",
        "job.starting",
        "job.running",
        "job.finalizing",
        "checkpoint.created",
        "job.succeeded",
    ]
    assert streamed == bench.events(job_id)
    assert list(api.events(job_id, after_seq=4)) == streamed[4:]
    log = "".join(chunk["text"] for chunk in api.pages(f"/v1/jobs/{job_id}/logs"))
    assert "running from step 0 of 3" in log
    assert "checkpoint at step 3" in log


def test_two_jobs_of_one_spec_end_with_the_same_bytes(bench):
    shared = {"model": bench.model(), "prompts": bench.prompts(), "rubric": bench.rubric()}
    first, second = (bench.run(**shared, training={"steps": 5}) for _ in range(2))
    other = bench.run(**shared, training={"steps": 5, "seed": 1})
    assert bench.weights(first) == bench.weights(second)
    assert bench.weights(first) != bench.weights(other)
    assert first["id"] != second["id"]


def test_lora_jobs_make_models_that_jobs_start_from(bench, api):
    lora = bench.run(adapter={"type": "lora", "r": 4}, training={"steps": 3, "learning_rate": 0.01})
    (checkpoint,) = api.pages(f"/v1/jobs/{lora['id']}/checkpoints")
    assert checkpoint["kind"] == "adapter"
    assert {f["path"] for f in checkpoint["files"]} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
    }
    model = api.get(f"/v1/models/{lora['result']['model']}")
    assert model["base_model"] == lora["policy"]["model"]
    on_top = bench.run("evaluate", model=model["id"])
    assert on_top["status"] == "succeeded"
    assert bench.run("sft", model=model["id"], training={"steps": 2})["status"] == "succeeded"


def test_kl_to_the_reference_starts_at_zero(bench):
    job = bench.run(algorithm={"type": "grape", "kl": {"beta": 0.1}}, training={"steps": 4, "learning_rate": 0.01})
    kl = bench.series(job["id"], "kl")
    assert kl[1] == pytest.approx(0, abs=1e-9)
    assert kl[4] > 0


def test_a_promoted_checkpoint_is_a_model(bench, api):
    job = bench.run(training={"steps": 2})
    model = api.post(f"/v1/checkpoints/{job['result']['last_checkpoint']}/promote", {"name": "mine"})
    assert (model["status"], model["source"]) == ("ready", {"checkpoint": job["result"]["last_checkpoint"]})
    assert model["sha256"] == api.get(f"/v1/models/{job['result']['model']}")["sha256"]
    with pytest.raises(ApiError) as caught:
        api.post("/v1/checkpoints/ckpt_none/promote", {"name": "mine"})
    assert caught.value.status == 404


def test_null_cells_are_null_all_the_way(bench, judge, api):
    """One text in four gets an unreadable verdict: null with a status, no reward from it, coverage below one."""
    judge.answer = lambda q: "what?" if sum(map(ord, q.answer)) % 4 == 0 else verdict(q, True, 0.9)
    rubric = bench.rubric(
        {"key": "short", "weight": 3, "grader": {"type": "regex", "pattern": "^.{0,6}$"}},
        bench.judged(bench.judge(judge)),
    )
    job = bench.run(rubric=rubric, algorithm={"type": "grape", "aggregation": {"max_null_share": 1.0}})
    rows = list(api.pages(f"/v1/jobs/{job['id']}/completions", criterion="nice", status="parse_error", limit=100))
    assert rows
    for row in rows:
        (cell,) = [c for c in row["cells"] if c["criterion"] == "nice"]
        assert (cell["score"], cell["family"], row["plain_reward"], row["coverage"]) == (None, "subject", None, 0.75)
        assert row["member"] or row["reward"] is None
        assert "nice" not in row["parts"]
    assert sum(bench.series(job["id"], "null_cells").values()) == len(rows)
