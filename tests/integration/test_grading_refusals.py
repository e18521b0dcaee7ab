"""Gradings that cannot be: one clear error at its place, nothing half-made; and whose they are."""

import time

import pytest

from service.client import ApiError, GrapeClient
from tests.support.gradings import HAS, SHORT, ended, grade

ASSISTANT = {"role": "assistant", "content": "x"}
BROKEN = {"weight": 1, "grader": {"type": "regex", "pattern": "("}}
NOBODY = {"weight": 1, "text": "t", "grader": {"type": "judge", "judge": "jdg_0"}}


def many(count):
    return [{"prompt": f"p{k}", "text": "x" * k} for k in range(count)]


def test_one_key_makes_one_grading(bench, api):
    body = {"rubric": {"id": bench.rubric(SHORT)}, "texts": many(4)}
    headers = {"Idempotency-Key": f"once-{time.monotonic_ns()}"}
    first, second = (api.request("POST", "/v1/gradings", json=body, headers=headers) for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    assert first.headers["location"] == f"/v1/gradings/{first.json()['id']}"


def test_another_projects_gradings_do_not_exist(bench, api):
    rubric = bench.rubric(SHORT)
    done, rows = grade(api, {"rubric": {"id": rubric}, "texts": many(4)})
    project = api.post("/v1/projects", {"name": "other"})["id"]
    key = api.post("/v1/api-keys", {"name": "t", "scopes": ["admin"], "project": project})["key"]
    with GrapeClient(api.base_url, key) as other:
        assert other.get("/v1/gradings")["data"] == []
        for path in (
            f"/v1/gradings/{done['id']}",
            f"/v1/gradings/{done['id']}/completions",
            f"/v1/completions/{rows[0]['id']}",
        ):
            with pytest.raises(ApiError) as caught:
                other.get(path)
            assert caught.value.status == 404
        with pytest.raises(ApiError) as caught:
            other.post(f"/v1/gradings/{done['id']}/cancel")
        assert caught.value.status == 404
        own = other.post("/v1/rubrics", {"name": "r", "content": {"criteria": [SHORT]}})["id"]
        for body, pointer in (
            ({"rubric": {"id": rubric}, "texts": many(4)}, "/rubric/id"),
            ({"rubric": {"id": own}, "completions": [rows[0]["id"]]}, "/completions/0"),
            ({"rubric": {"id": own}, "grading": done["id"]}, "/grading"),
            ({"rubric": {"id": own}, "job": "job_00000000000000000000000000"}, "/job"),
        ):
            with pytest.raises(ApiError) as caught:
                other.post("/v1/gradings", body)
            assert (caught.value.status, caught.value.code) == (422, "not_found")
            assert caught.value.errors[0]["pointer"] == pointer
        assert other.get("/v1/gradings")["data"] == []


BAD_TEXTS = [
    ([], "/texts", "too_short"),
    ([{"prompt": "p"}], "/texts/0/text", "missing"),
    ([{"prompt": "p", "text": "a"}, {"prompt": {"prompt": "p", "refrence": 1}, "text": "a"}], "/texts/1/prompt/refrence", "unknown_field"),
    ([{"prompt": {"messages": [ASSISTANT]}, "text": "a"}], "/texts/0/prompt/messages", "invalid_prompt"),
    ([{"prompt": {"prompt": "p", "criteria": [BROKEN]}, "text": "a"}], "/texts/0/prompt/criteria/0/grader/pattern", "invalid_regex"),
    ([{"prompt": {"prompt": "p", "criteria": [NOBODY]}, "text": "a"}], "/texts/0/prompt/criteria/0/grader/judge", "not_found"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "pointer", "code"),
    [
        *[({"texts": texts}, pointer, code) for texts, pointer, code in BAD_TEXTS],
        ({"texts": None}, "", "one_of"),
        ({"dataset": "ds_0"}, "", "one_of"),
        ({"rubric": None}, "/rubric", "missing"),
        ({"rubric": {"id": "RUB", "version": 7}}, "/rubric/version", "not_found"),
        ({"reuse_cells": True}, "/reuse_cells", "invalid_option"),
        ({"purpose": "train"}, "/purpose", "invalid_option"),
        ({"aggregation": {"max_null_share": 0.5}}, "/aggregation/max_null_share", "invalid_option"),
        ({"aggregation": {"confidence_exponent_final": 0}}, "/aggregation/confidence_exponent_final", "invalid_option"),
        ({"aggregation": {"pooling": "shrunk"}}, "/aggregation/pooling", "invalid_option"),
        ({"aggregation": {"weighing": "uniform"}}, "/aggregation/weighing", "unknown_field"),
        ({"texts": None, "completions": ["cmp_1", "cmp_1"]}, "/completions/1", "duplicate"),
        ({"texts": None, "completions": ["cmp_1"]}, "/completions/0", "not_found"),
        ({"texts": None, "dataset": "ds_0"}, "/dataset", "not_found"),
        ({"texts": None, "dataset": "PROMPTS"}, "/dataset", "wrong_kind"),
    ],
)
def test_bad_requests_are_refused_with_their_place(bench, api, change, pointer, code):
    body = {"rubric": {"id": bench.rubric(SHORT)}, "texts": [{"prompt": "p", "text": "a"}], **change}
    if change.get("rubric", {}) == {"id": "RUB", "version": 7}:
        body["rubric"]["id"] = bench.rubric(SHORT)
    if change.get("dataset") == "PROMPTS":
        body["dataset"] = bench.prompts()
    with pytest.raises(ApiError) as caught:
        api.post("/v1/gradings", {name: value for name, value in body.items() if value is not None})
    assert (pointer, code) in {(e["pointer"], e["code"]) for e in caught.value.errors}, caught.value.errors


def test_a_prompt_without_what_a_grader_needs_is_refused(bench, api):
    with pytest.raises(ApiError) as caught:
        api.post("/v1/gradings", {"rubric": {"id": bench.rubric(HAS)}, "texts": [{"prompt": "p", "text": "a"}]})
    assert caught.value.errors[0]["pointer"] == "/texts/0/prompt/reference"
    assert "'has'" in caught.value.message


def test_only_keys_with_the_scope_grade(bench, api):
    key = api.post("/v1/api-keys", {"name": "t", "scopes": ["jobs:read", "rubrics:write"]})["key"]
    with GrapeClient(api.base_url, key) as other:
        for call in (lambda: other.get("/v1/gradings"), lambda: other.post("/v1/gradings", {"nonsense": 1})):
            with pytest.raises(ApiError) as caught:
                call()
            assert (caught.value.status, caught.value.code) == (403, "forbidden")


def test_a_weighting_that_the_judges_cannot_serve_is_refused_before_anything_is_paid(bench, judge, api):
    """The votes are the judge's own: the rubric says nothing of them."""
    for votes, refused in ((1, True), (2, False)):
        rubric = bench.rubric(bench.judged(bench.judge(judge, votes=votes)))
        body = {"aggregation": {"weighting": "inverse_variance"}, "texts": [{"prompt": "p", "text": t} for t in "ab"]}
        tried = {"aggregation": body["aggregation"], "prompt": "p", "completions": ["a", "b"]}
        calls = (("/v1/gradings", {"rubric": {"id": rubric}, **body}), (f"/v1/rubrics/{rubric}/versions/1/try", tried))
        for path, request in calls:
            if not refused:
                api.post(path, request)
                continue
            with pytest.raises(ApiError) as caught:
                api.post(path, request)
            assert caught.value.errors[0]["pointer"] == "/aggregation/weighting"
            assert not judge.questions


def test_stored_prompts_whose_own_criteria_do_not_allow_the_weighting_end_it_before_anything_is_paid(bench, judge, api):
    """Their criteria are known to the worker alone; the judge of the prompt's criterion gives a single vote."""
    own = bench.judged(bench.judge(judge), "own")
    rubric = bench.rubric(bench.judged(bench.judge(judge, votes=2)))
    prompt = {"prompt": "p", "criteria": [own]}
    first, _ = grade(api, {"rubric": {"id": rubric}, "texts": [{"prompt": prompt, "text": t} for t in "ab"]})
    judge.questions.clear()
    body = {"rubric": {"id": rubric}, "grading": first["id"], "aggregation": {"weighting": "inverse_variance"}}
    failed = ended(api, api.post("/v1/gradings", body)["id"], expected="failed")
    assert failed["error"]["code"] == "rubric_invalid"
    assert "'prompt.own' has a single vote" in failed["error"]["message"]
    assert not judge.questions
