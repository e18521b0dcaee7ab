"""Material for jobs: a tiny model, prompts, rubrics, and a way to run them over HTTP."""

from __future__ import annotations

import pytest

from examples.tiny_model import make_tiny_model

WORDS = [chr(ord("a") + k) for k in range(26)]
CONTAINS = {"key": "has", "weight": 2, "grader": {"type": "contains", "values": ["{{ prompt.reference }}"]}}
SHORT = {"key": "short", "weight": 1, "grader": {"type": "regex", "pattern": "^.{0,7}$"}}
AUDIT = {"key": "one", "audit": True, "grader": {"type": "exact", "reference": "{{ prompt.reference }}"}}


class Bench:
    """What tests build jobs from."""

    def __init__(self, api, stack):
        self.api, self.stack = api, stack

    def model(self, seed=0):
        folder = self.stack.folder / f"bench-model-{seed}"
        if not folder.exists():
            make_tiny_model(folder, WORDS, seed=seed, hidden=32)
        return self.api.register_model("tiny", {"path": str(folder)})["id"]

    def prompts(self, rows=None):
        dataset = self.api.post("/v1/datasets", {"name": "p", "kind": "prompts"})["id"]
        self.api.upload_rows(dataset, rows or [{"prompt": f"{a} {b}", "reference": a} for a in "abcd" for b in "efg"])
        return dataset

    def demonstrations(self):
        dataset = self.api.post("/v1/datasets", {"name": "d", "kind": "demonstrations"})["id"]
        rows = [{"prompt": f"{a} {b}", "completion": f"{a} {b}"} for a in "abcdef" for b in "ghijkl"]
        self.api.upload_rows(dataset, rows)
        return dataset

    def preferences(self):
        dataset = self.api.post("/v1/datasets", {"name": "pairs", "kind": "preferences"})["id"]
        rows = [{"prompt": f"{a} {b}", "chosen": f"{a} {b}", "rejected": b} for a in "abcdef" for b in "ghijkl"]
        self.api.upload_rows(dataset, rows)
        return dataset

    def judge(self, fake, **limits):
        body = {"name": "fake", "endpoint": {"base_url": fake.base_url, "model": "m"}, "timeout_s": 10, **limits}
        return self.api.post("/v1/judges", body)["id"]

    def rubric(self, *criteria, **content):
        body = {"name": "r", "content": {"criteria": list(criteria or (CONTAINS, SHORT, AUDIT)), **content}}
        return self.api.post("/v1/rubrics", body)["id"]

    def judged(self, judge_id, key="nice", **changes):
        return {"key": key, "weight": 1, "text": "is nice", "grader": {"type": "judge", "judge": judge_id}, **changes}

    def spec(self, kind="grape", **changes):
        spec = {
            "name": kind,
            "algorithm": {"type": kind},
            "policy": {"model": changes.pop("model", None) or self.model()},
            "training": {"steps": 4, "learning_rate": 0.003, **changes.pop("training", {})},
            "rollout": {
                "group_size": 4,
                "prompts_per_step": 3,
                "max_completion_tokens": 8,
                **changes.pop("rollout", {}),
            },
        }
        if kind in ("dpo", "reward_model"):
            spec["data"] = {"preferences": changes.pop("preferences", None) or self.preferences()}
            spec["training"]["batch_size"] = 8
        elif kind == "sft":
            spec["data"] = {"demonstrations": changes.pop("demonstrations", None) or self.demonstrations()}
            spec["training"]["batch_size"] = 8
        else:
            spec["data"] = {"prompts": changes.pop("prompts", None) or self.prompts()}
            spec["rubric"] = {"id": changes.pop("rubric", None) or self.rubric()}
        if kind == "evaluate":
            spec["training"] = {}
        return {**spec, **changes}

    def submit(self, kind="grape", **changes):
        return self.api.post("/v1/jobs", self.spec(kind, **changes))["id"]

    def finish(self, job_id, timeout_s=120, expected="succeeded"):
        job = self.api.wait(job_id, timeout_s=timeout_s, every_s=0.1)
        assert job["status"] == expected, (job["status"], job["error"], job["status_reason"])
        return job

    def run(self, kind="grape", **changes):
        return self.finish(self.submit(kind, **changes))

    def until(self, job_id, *states, timeout_s=60):
        job = self.api.wait(job_id, until=states, timeout_s=timeout_s, every_s=0.05)
        assert job["status"] in states, (job["status"], job["error"])
        return job

    def until_step(self, job_id, step, timeout_s=60):
        from tests.support.stack import wait_for

        return wait_for(
            lambda: (job := self.api.get(f"/v1/jobs/{job_id}"))["progress"]["step"] >= step and job,
            timeout_s,
            f"step {step} of {job_id}",
        )

    def events(self, job_id):
        return list(self.api.pages(f"/v1/jobs/{job_id}/events", limit=200))

    def series(self, job_id, name):
        data = self.api.get(f"/v1/jobs/{job_id}/metrics", names=name)["data"]
        return {p["step"]: p["value"] for s in data for p in s["points"] if not p["superseded"]}

    def weights(self, job):
        """sha256 of the last checkpoint's weights."""
        checkpoint = self.api.get(f"/v1/checkpoints/{job['result']['last_checkpoint']}")
        return {
            f["path"]: f["sha256"]
            for f in checkpoint["files"]
            if f["path"].endswith(".safetensors") and "/" not in f["path"]
        }


@pytest.fixture
def bench(api, stack):
    return Bench(api, stack)
