"""How much of a judge's latency a training job hides: a GRAPE job whose judge takes two seconds for everything.

A step asks 8 × 8 completions on two criteria, 64 calls in flight: two waves, so the judge takes `WAVES` × its latency after the
last question at the latest. What the job waits for after its last token (`grading_wait_s`) is not hidden; the rest is.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks.judging.rows import IN_FLIGHT, Bench, Row
from examples.tiny_model import make_tiny_model

LATENCY_S = 2.0
WAVES = 2
PROMPTS = GROUP = 8
WARM_UP = 2
WORDS = [f"w{k}" for k in range(600)]


def hidden(bench: Bench, folder: Path, steps: int) -> Row:
    """The share of 2 × 2 s of judge latency a step during which the job did something else; sampling takes what it takes."""
    place = folder / "overlap-model"
    parameters = make_tiny_model(place, WORDS, seed=0, hidden=256, layers=5)
    api = bench.api
    model = api.register_model("overlap", {"path": str(place)})["id"]
    dataset = api.post("/v1/datasets", {"name": "overlap", "kind": "prompts"})["id"]
    rows = [{"prompt": " ".join(WORDS[k : k + 8])} for k in range(64)]
    api.upload_rows(dataset, rows)
    criteria = [
        {"key": key, "weight": 1, "text": f"The answer is {key}.", "grader": {"type": "judge", "judge": bench.judge}}
        for key in ("clear", "short")
    ]
    assert PROMPTS * GROUP * len(criteria) == WAVES * IN_FLIGHT
    rubric = api.post("/v1/rubrics", {"name": "overlap", "content": {"criteria": criteria}})["id"]
    bench.fake.mode(latency=LATENCY_S)
    job = api.post(
        "/v1/jobs",
        {
            "name": "overlap",
            "algorithm": {"type": "grape"},
            "policy": {"model": model},
            "data": {"prompts": dataset},
            "rubric": {"id": rubric, "version": 1},
            "rollout": {"group_size": GROUP, "prompts_per_step": PROMPTS, "max_completion_tokens": 48},
            "training": {"steps": WARM_UP + steps, "learning_rate": 1e-5},
        },
    )["id"]
    done = api.wait(job)
    if done["status"] != "succeeded":
        raise RuntimeError(f"the job ended as {done['status']}: {done['error'] or done['status_reason']}")
    series = {
        found["name"]: [point["value"] for point in found["points"] if point["step"] > WARM_UP]
        for found in api.get(f"/v1/jobs/{job}/metrics")["data"]
    }
    shares = [1.0 - waited / (WAVES * LATENCY_S) for waited in series["grading_wait_s"]]
    row = Row("2 s judge in a GRAPE job, staleness 0: latency hidden", "of 1", shares)
    row.seen = {
        "parameters": parameters,
        "sampling_s": statistics.median(series["sampling_s"]),
        "grading_wait_s": statistics.median(series["grading_wait_s"]),
        "step_s": statistics.median(series["seconds"]),
    }
    return row
