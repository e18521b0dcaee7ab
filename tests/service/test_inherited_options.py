"""Votes and confidence that criteria inherit from their judge: checked at publish, and again when something is graded."""

import pytest

from service.client import ApiError

LEVELS = {
    "type": "ordinal",
    "levels": [{"label": "bad", "value": 0, "anchor": "a"}, {"label": "fine", "value": 1, "anchor": "b"}],
}


def judge(api, **options):
    body = {"name": "j", "endpoint": {"base_url": "http://127.0.0.1:1/v1", "model": "m"}, **options}
    return api.post("/v1/judges", body)["id"]


def content(judge_id, scale=None, aggregation=None, **grader):
    only = {
        "key": "a",
        "weight": 1,
        "text": "names the capital",
        "grader": {"type": "judge", "judge": judge_id, **grader},
    }
    return {"criteria": [{**only, **({"scale": scale} if scale else {})}], "aggregation": aggregation or {}}


def faults(call):
    with pytest.raises(ApiError) as caught:
        call()
    assert caught.value.status == 422
    return [(error["pointer"], error["code"]) for error in caught.value.errors]


@pytest.mark.parametrize(
    ("options", "asked", "pointer"),
    [
        ({}, {"confidence": "votes"}, "/content/criteria/0/grader/votes"),
        ({"votes": 3, "confidence": "votes"}, {"votes": 1}, "/content/criteria/0/grader/votes"),
        ({"confidence": "logprob"}, {"scale": {"type": "unit"}}, "/content/criteria/0/scale"),
        ({}, {"aggregation": {"weighting": "inverse_variance"}}, "/content/aggregation/weighting"),
    ],
)
def test_what_a_criterion_inherits_is_checked_at_publish_and_by_validate(api, options, asked, pointer):
    body = content(judge(api, **options), **asked)
    found = faults(lambda: api.validate_rubric(body))
    assert [place for place, _ in found] == [pointer]
    assert faults(lambda: api.post("/v1/rubrics", {"name": "r", "content": body})) == found


def test_what_goes_together_with_the_judges_values_is_published(api):
    for options, asked in (
        ({"votes": 2}, {"confidence": "votes"}),
        ({"votes": 3, "confidence": "votes"}, {}),
        ({"confidence": "logprob"}, {"scale": LEVELS}),
        ({"votes": 2}, {"aggregation": {"weighting": "inverse_variance"}}),
    ):
        assert api.validate_rubric(content(judge(api, **options), **asked))["valid"]


def test_a_module_whose_judge_has_changed_is_refused_at_its_include(api):
    own = judge(api, votes=2)
    module = api.post("/v1/rubrics", {"name": "m", "content": content(own, confidence="votes")})["id"]
    outer = {"includes": [{"as": "m", "rubric": module}], "criteria": content("jdg_none")["criteria"]}
    api.patch(f"/v1/judges/{own}", {"votes": 1})
    assert faults(lambda: api.validate_rubric(outer)) == [
        ("/content/criteria/0/grader/judge", "not_found"),
        ("/content/includes/0/rubric", "contradiction"),
    ]


def test_a_judge_that_has_changed_since_is_noticed_before_anything_is_asked(api):
    own = judge(api, votes=2)
    rubric = api.post("/v1/rubrics", {"name": "r", "content": content(own, confidence="votes")})["id"]
    texts = {"texts": [{"prompt": "p", "text": "a"}]}
    api.patch(f"/v1/judges/{own}", {"votes": 1})
    for path, body in (
        ("/v1/gradings", {"rubric": {"id": rubric}, **texts}),
        (f"/v1/rubrics/{rubric}/versions/1/try", {"prompt": "p", "completions": ["a"]}),
    ):
        assert faults(lambda path=path, body=body: api.post(path, body)) == [("/rubric", "contradiction")]
    plain = {"criteria": [{"key": "x", "weight": 1, "grader": {"type": "regex", "pattern": "x"}}]}
    other = api.post("/v1/rubrics", {"name": "r", "content": plain})["id"]
    prompt = {"prompt": "p", "criteria": content(own, confidence="votes")["criteria"]}
    body = {"rubric": {"id": other}, "texts": [{"prompt": prompt, "text": "a"}]}
    assert faults(lambda: api.post("/v1/gradings", body)) == [
        ("/texts/0/prompt/criteria/0/grader/votes", "contradiction")
    ]


@pytest.mark.parametrize(
    ("options", "asked", "place"),
    [
        ({}, {"confidence": "votes"}, "/criteria/0/grader/votes"),
        ({"votes": 3, "confidence": "votes"}, {"votes": 1}, "/criteria/0/grader/votes"),
        ({"confidence": "logprob"}, {"scale": {"type": "unit"}}, "/criteria/0/scale"),
        ({"capabilities": {"logprobs": False}}, {"confidence": "logprob"}, "/criteria/0/grader/confidence"),
    ],
)
def test_what_a_row_brings_along_is_held_to_the_same_when_it_comes_in(api, options, asked, place):
    dataset = api.post("/v1/datasets", {"name": "p", "kind": "prompts"})["id"]
    own = content(judge(api, **options), **asked)["criteria"]
    rows = [{"prompt": "fine"}, {"prompt": "p", "criteria": own}]
    assert faults(lambda: api.upload_rows(dataset, rows)) == [(place, "contradiction")]
    assert api.get(f"/v1/datasets/{dataset}")["rows"] == 0
    later = content("jdg_00000000000000000000000000", **asked)["criteria"]
    assert api.upload_rows(dataset, [{"prompt": "p", "criteria": later}])["rows"] == 1  # that judge may still be made


def test_so_are_the_prompts_of_stored_completions(api):
    own = judge(api, votes=2, max_attempts=1)
    plain = {"criteria": [{"key": "x", "weight": 1, "grader": {"type": "regex", "pattern": "x"}}]}
    rubric = {"id": api.post("/v1/rubrics", {"name": "r", "content": plain})["id"]}
    prompt = {"prompt": "p", "criteria": content(own, confidence="votes")["criteria"]}
    grading = api.post("/v1/gradings", {"rubric": rubric, "texts": [{"prompt": prompt, "text": "a"}]})["id"]
    assert api.wait_grading(grading, timeout_s=60)["status"] == "succeeded"
    (row,) = api.get(f"/v1/gradings/{grading}/completions")["data"]
    api.patch(f"/v1/judges/{own}", {"votes": 1})
    for source in ({"completions": [row["id"]]}, {"grading": grading}):
        place = f"/{next(iter(source))}"
        assert faults(lambda source=source: api.post("/v1/gradings", {"rubric": rubric, **source})) == [
            (place, "contradiction")
        ]
