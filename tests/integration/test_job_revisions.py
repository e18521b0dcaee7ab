"""`algorithm.revision` of jobs on the whole stack: accepted revisions in datasets when the job has ended, and on the way."""

import json

import pytest

from examples.tiny_model import make_tiny_model
from service.client import ApiError
from tests.support.gradings import grade
from tests.support.judge import FakeJudge, completion, verdict
from tests.support.stack import wait_for

NICE = {"scale": {"type": "unit"}, "weight": 4}


def judging(question):
    return verdict(question, 1.0 if "z" in question.answer else 0.25, 0.9, f"about {question.answer}")


def rows(api, dataset):
    return [row["content"] for row in api.pages(f"/v1/datasets/{dataset}/rows")]


def test_a_grape_job_with_a_named_reviser_fills_datasets_that_dpo_and_sft_read(bench, judge, api):
    judge.answer = judging
    with FakeJudge(lambda question: completion("z")) as other:
        reviser = bench.judge(other)
        rubric = bench.rubric(bench.judged(bench.judge(judge), **NICE), {"key": "short", "weight": 1, "grader": {
            "type": "regex", "pattern": "^.{0,9}$"}})  # fmt: skip
        revision = {"uses": ["pairs", "demonstrations", "pairs_from_group"], "reviser": reviser}
        job = bench.run(
            rubric=rubric,
            algorithm={"type": "grape", "revision": revision},
            training={"steps": 3},
            checkpoints={"every_steps": 1},
        )
    asked = job["algorithm"]["revision"]
    assert (asked["votes"], asked["margin"], asked["reviser"]) == (2, 0.1, reviser)
    assert set(job["judges"]) >= {reviser}
    results = list(api.pages(f"/v1/jobs/{job['id']}/revisions", limit=200))
    revised = [row for row in results if row["kind"] == "revision"]
    assert revised
    assert {row["step"] for row in results} <= {1, 2, 3}
    accepted = [row for row in revised if row["accepted"]]
    assert accepted
    assert len(other.questions) == len(revised)
    for row in accepted:
        assert row["published"]
        better = api.get(f"/v1/completions/{row['better']['completion']}")
        original = api.get(f"/v1/completions/{row['original']['completion']}")
        assert (better["purpose"], better["revision_of"], better["text"]) == ("revision", original["id"], "z")
        assert (better["job_id"], better["step"], better["token_count"]) == (job["id"], row["step"], None)
        assert original["purpose"] == "train"
        again = api.get(f"/v1/completions/{row['original']['regraded']}")
        assert (again["purpose"], again["source"], again["text"]) == ("regraded", original["id"], original["text"])
        nice = next(cell for cell in again["cells"] if cell["criterion"] == "nice")
        assert (nice["votes"], nice["cached"]) == (2, False)
        told = next(cell for cell in original["cells"] if cell["criterion"] == "nice")
        assert row["critiques"] == [told["critique"]]
        assert row["reviser"] == {"judge": reviser, "revision": 1, "prompt_version": 1}
    listed = list(api.pages(f"/v1/jobs/{job['id']}/completions", purpose="revision", limit=200))
    assert {row["id"] for row in listed} == {row["better"]["completion"] for row in revised if row["better"]}
    pairs, shown = rows(api, asked["preferences"]), rows(api, asked["demonstrations"])
    assert len(shown) == len(accepted)
    assert len(pairs) == sum(row["accepted"] for row in results)
    assert {row["lineage"]["job"] for row in shown} == {job["id"]}
    events = bench.events(job["id"])
    finished = [event["data"] for event in events if event["type"] == "revision.finished"]
    assert [data["step"] for data in finished] == [1, 2, 3]
    assert sum(data["accepted"] for data in finished) == len(pairs)
    published = [event["data"] for event in events if event["type"] == "revision.published"]
    assert sum(data["demonstrations"]["rows"] for data in published) == len(shown)
    share = bench.series(job["id"], "revisions.accepted_share")
    assert set(share) == {1, 2, 3}
    for kind, data in (
        ("dpo", {"preferences": asked["preferences"]}),
        ("sft", {"demonstrations": asked["demonstrations"]}),
    ):
        bench.run(kind, training={"steps": 1}, **data)


def test_an_evaluate_job_revises_too_and_a_budget_pauses_the_job(bench, judge, api):
    judge.answer = judging
    with FakeJudge(lambda question: completion("z")) as other:
        rubric = bench.rubric(bench.judged(bench.judge(judge), **NICE))
        spec = {"rubric": rubric, "rollout": {"temperature": 1.0, "group_size": 4}}
        revision = {"uses": ["demonstrations"], "reviser": bench.judge(other)}
        algorithm = {"type": "evaluate", "revision": revision}
        # 12 prompts in groups of 4: 48 calls; then a revision for each group whose answers differ, and 4 fresh calls each.
        job_id = bench.submit("evaluate", **spec, algorithm=algorithm, limits={"judge_calls": 50})
        job = bench.until(job_id, "paused")
        assert "budget_exhausted" in job["status_reason"]
        assert job["spent"]["judge_calls"] == 50
        api.post(f"/v1/jobs/{job_id}/resume", {"limits": {"judge_calls": None}})
        job = bench.finish(job_id)
    results = list(api.pages(f"/v1/jobs/{job_id}/revisions"))
    assert len(other.questions) == len(results)  # those that were paid for are not asked again
    assert all(row["accepted"] for row in results)
    assert len(rows(api, job["algorithm"]["revision"]["demonstrations"])) > 0
    assert job["spent"]["judge_calls"] == len(judge.questions) + len(other.questions)


def test_a_killed_job_pays_for_no_revision_twice_and_publishes_once(bench, stack, judge, api):
    judge.answer = judging
    with FakeJudge(lambda question: completion("z")) as other:
        rubric = bench.rubric(bench.judged(bench.judge(judge), **NICE))
        revision = {"uses": ["demonstrations"], "reviser": bench.judge(other), "per_group": None}
        job_id = bench.submit(
            rubric=rubric,
            algorithm={"type": "grape", "revision": revision},
            training={"steps": 6},
            checkpoints={"every_steps": 2},
        )
        wait_for(lambda: api.get(f"/v1/jobs/{job_id}")["progress"]["step"] >= 3, 60, "step 3")
        stack.kill("child")
        job = bench.finish(job_id)
    assert job["attempt"] > 1
    results = list(api.pages(f"/v1/jobs/{job_id}/revisions", limit=200))
    assert len(other.questions) == len(results)
    keys = [(row["step"], row["original"]["completion"]) for row in results]
    assert len(set(keys)) == len(keys)
    shown = rows(api, job["algorithm"]["revision"]["demonstrations"])
    assert len(shown) == sum(row["accepted"] for row in results)
    assert len({row["lineage"]["result"] for row in shown}) == len(shown)


def test_what_does_not_go_together_is_refused_at_submit(bench, api):
    def refused(kind="grape", **algorithm):
        with pytest.raises(ApiError) as error:
            bench.submit(kind, algorithm={"type": kind, **algorithm})
        return {(e["pointer"], e["code"]) for e in error.value.errors}

    assert refused(revision={"reviser": "jdg_0"}) == {("/algorithm/revision/reviser", "not_found")}
    assert refused(revision={"preferences": bench.demonstrations()}) == {
        ("/algorithm/revision/preferences", "wrong_kind")
    }
    group = {"revision": {"uses": ["group"]}}
    assert refused("reinforce", **group) == {("/algorithm/revision/uses/0", "invalid_option")}
    assert refused(**group, advantage={"baseline": "none"}) == {("/algorithm/revision/uses/0", "invalid_option")}
    assert refused("sft", revision={}) == {("/algorithm/revision", "unknown_field")}


def test_rejection_sampling_draws_from_stored_completions(bench, judge, api):
    """Texts that somebody else wrote are graded once, and the best of each prompt is what is learned."""
    judge.answer = judging
    rubric = bench.rubric(bench.judged(bench.judge(judge), **NICE))
    texts = [
        {"prompt": prompt, "text": text}
        for prompt, answers in (("a b", ["c", "z", "c"]), ("d e", ["f", "g"]), ("h i", ["z z", " "]))
        for text in answers
    ]
    grading, _ = grade(api, {"rubric": {"id": rubric}, "texts": texts})
    asked = len(judge.questions)
    spec = bench.spec("rejection_sampling", rubric=rubric, training={"steps": 2, "batch_size": 4})
    spec["algorithm"] |= {"select": "threshold", "threshold": 0.9, "stored": {"grading": grading["id"]}}
    with pytest.raises(ApiError) as both:
        api.post("/v1/jobs", spec)
    assert [(e["pointer"], e["code"]) for e in both.value.errors] == [("/data/prompts", "invalid_option")]
    del spec["data"]
    with pytest.raises(ApiError) as unknown:
        api.post("/v1/jobs", {**spec, "algorithm": {**spec["algorithm"], "stored": {"grading": "grd_0"}}})
    assert [e["pointer"] for e in unknown.value.errors] == ["/algorithm/stored/grading"]
    job = bench.finish(api.post("/v1/jobs", spec)["id"])
    assert len(judge.questions) == asked  # the same judge has said it all
    rows_ = list(api.pages(f"/v1/jobs/{job['id']}/completions"))
    # Each text of a prompt once, and no empty one.
    assert sorted(row["text"] for row in rows_) == ["c", "f", "g", "z", "z z"]
    assert all(row["cells"][0]["cached"] for row in rows_)
    assert bench.series(job["id"], "kept") == {1: 2.0, 2: 2.0}
    assert bench.series(job["id"], "plain_reward.kept") == {1: 1.0, 2: 1.0}


def test_the_policy_revises_itself_and_what_is_accepted_joins_the_update(bench, stack, api):
    """Verifiers alone; the random policy's revisions are as good as its answers, so some are better. Equal jobs, equal weights."""
    folder = stack.folder / "bench-model-wide"
    make_tiny_model(folder, [chr(ord("a") + k) for k in range(26)], seed=3, hidden=32)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 2048}))
    model = api.register_model("wide", {"path": str(folder)})["id"]
    rubric = bench.rubric({"key": "brief", "weight": 1, "grader": {"type": "regex", "pattern": "^.{0,25}$"}})
    revision = {"uses": ["group", "pairs", "demonstrations"], "per_group": None}

    def run(**algorithm):
        return bench.run(
            model=model,
            rubric=rubric,
            algorithm={"type": "grape", **algorithm},
            training={"steps": 2},
            rollout={"max_completion_tokens": 24},
        )

    first, second, without = run(revision=revision), run(revision=revision), run()
    results = list(api.pages(f"/v1/jobs/{first['id']}/revisions", limit=200))
    accepted = [row for row in results if row["accepted"]]
    assert 0 < len(accepted) < len(results), [row["message"] for row in results]
    assert bench.weights(first) == bench.weights(second) != bench.weights(without)
    assert {row["reviser"]["policy"] for row in results} == {model}
    assert {(row["step"], row["reviser"]["step"]) for row in results} == {(1, 0), (2, 1)}
    for row in accepted:
        better = api.get(f"/v1/completions/{row['better']['completion']}")
        assert (better["purpose"], better["token_count"] > 0, better["finish_reason"]) == ("revision", True, "stop")
    weights = bench.series(first["id"], "importance_weight")
    assert weights
    assert all(0 < value < 1 for value in weights.values())
    assert bench.series(without["id"], "importance_weight") == {}


@pytest.mark.parametrize("kind", ["ppo", "rejection_sampling"])
def test_every_job_with_a_rubric_gives_pairs_from_its_groups(bench, api, kind):
    """Best against worst needs no reviser; verifiers alone grade, so that nobody is asked."""
    revision = {"uses": ["pairs_from_group"], "margin": 0.05}
    more = {"training": {"steps": 1, "batch_size": 4}} if kind == "rejection_sampling" else {"training": {"steps": 1}}
    rubric = bench.rubric({"key": "brief", "weight": 1, "grader": {"type": "regex", "pattern": "^.{0,9}$"}})
    job = bench.run(kind, rubric=rubric, algorithm={"type": kind, "revision": revision}, **more)
    results = list(api.pages(f"/v1/jobs/{job['id']}/revisions"))
    assert results
    assert {row["kind"] for row in results} == {"group_pair"}
    pairs = rows(api, job["algorithm"]["revision"]["preferences"])
    assert len(pairs) == sum(row["accepted"] for row in results) > 0
    for row in (row for row in results if row["accepted"]):
        chosen, rejected = (api.get(f"/v1/completions/{row[side]['completion']}") for side in ("better", "original"))
        assert (chosen["group"], chosen["purpose"]) == (rejected["group"], "train")
        assert (len(chosen["text"]) <= 9, len(rejected["text"]) <= 9) == (True, False)
