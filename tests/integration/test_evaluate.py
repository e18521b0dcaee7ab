"""An `evaluate` job over HTTP: a scorecard that can be recomputed, and two models on the same prompts."""

import os
import subprocess
import sys

import pytest

from service.client import ApiError
from service.domain.scoring import mean


def rewards(api, job_id, purpose):
    rows = list(api.pages(f"/v1/jobs/{job_id}/completions", purpose=purpose, limit=200))
    assert rows
    found = {}
    for row in rows:
        found.setdefault(row["prompt"]["id"], []).append(row["plain_reward"])
    return found


def test_a_trained_model_against_the_one_it_started_from(bench, api, stack):
    rows = [
        {"prompt": f"{a} {b}", "reference": a, "category": "early" if a < "c" else "late"} for a in "abcd" for b in "gh"
    ]
    prompts, rubric = bench.prompts(rows), bench.rubric()
    trained = bench.run("sft", training={"steps": 40, "learning_rate": 0.01})["result"]["model"]
    base = bench.model()
    evaluate = {"type": "evaluate", "compare_to": {"model": base}}
    common = {"prompts": prompts, "rubric": rubric, "rollout": {"group_size": 3, "temperature": 1.0}}
    job = bench.run("evaluate", model=trained, algorithm=evaluate, **common)
    card, found = job["result"]["scorecard"], job["result"]["comparison"]
    own, other = rewards(api, job["id"], "evaluation"), rewards(api, job["id"], "comparison")
    assert own.keys() == other.keys()
    assert len(own) == 8
    plain = card["overall"]["plain_reward"]
    assert plain["mean"] == pytest.approx(mean(x for row in own.values() for x in row), abs=1e-12)
    assert plain["low"] <= plain["mean"] <= plain["high"]
    assert {part["category"] for part in card["categories"]} == {"early", "late"}
    assert set(card["overall"]["criteria"]) == {"has", "short", "one"}
    assert bench.series(job["id"], "evaluation.plain_reward")[0] == pytest.approx(plain["mean"])
    met = [(a > b) + (a == b) / 2 for name in own for a in own[name] for b in other[name]]
    rate = found["overall"]["win_rate"]
    assert rate["rate"] == pytest.approx(mean(met), abs=1e-12)
    assert rate["wins"] + rate["ties"] + rate["losses"] == 72
    apart = [mean(own[name]) - mean(other[name]) for name in own]
    assert found["overall"]["plain_reward"]["difference"] == pytest.approx(mean(apart), abs=1e-12)
    assert found["overall"]["plain_reward"]["low"] > 0  # it has learned the task
    assert found["compare_to"]["model"] == base
    assert found["compare_to"]["sha256"] == api.get(f"/v1/models/{base}")["sha256"]
    # The other way round, the same samples: seeds go by prompt and step, not by model or role.
    turned = bench.run("evaluate", model=base, algorithm={**evaluate, "compare_to": {"model": trained}}, **common)
    assert rewards(api, turned["id"], "comparison") == own
    assert turned["result"]["comparison"]["scorecard"] == card
    shown = subprocess.run(
        [sys.executable, "-m", "service.cli.main", "job", "show", job["id"]],
        capture_output=True, text=True, check=True, env={**os.environ, "GRAPE_DATA_DIR": str(stack.folder)},
    ).stdout  # fmt: skip
    assert "win rate" in shown
    assert f"against {base}" in shown
    with pytest.raises(ApiError) as caught:
        api.post("/v1/jobs", bench.spec("evaluate", model=base, algorithm=evaluate, **common))
    assert caught.value.errors[0]["pointer"] == "/algorithm/compare_to/model"
    unknown = {"type": "evaluate", "compare_to": {"model": "mdl_0"}}
    with pytest.raises(ApiError, match="there is no model 'mdl_0'") as caught:
        api.post("/v1/jobs", bench.spec("evaluate", model=base, algorithm=unknown, **common))
    assert caught.value.errors[0]["pointer"] == "/algorithm/compare_to/model"
