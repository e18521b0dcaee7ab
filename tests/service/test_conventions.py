"""What every route shares, over real sockets: errors, keys, scopes, idempotency, pages, ids of others."""

import json
import uuid

import httpx
import pytest

from service.client import ApiError, GrapeClient, find_credentials

CONTENT = {"criteria": [{"key": "a", "weight": 1, "grader": {"type": "regex", "pattern": "x"}}]}


@pytest.fixture
def http(stack):
    base_url, key = find_credentials(stack.folder)
    with httpx.Client(base_url=base_url, headers={"Authorization": f"Bearer {key}"}) as client:
        yield client


def with_scopes(api, *scopes, project=None):
    body = {"name": "t", "scopes": list(scopes), **({"project": project} if project else {})}
    return GrapeClient(api.base_url, api.post("/v1/api-keys", body)["key"])


def test_errors_are_problems_with_an_openai_object(http):
    answer = http.post("/v1/rubrics", json={"name": "r", "content": {"criteria": [{"key": "a", "wait": 1}]}})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert set(body) >= {"type", "title", "status", "detail", "code", "request_id", "error", "errors"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["request_id"] == answer.headers["x-request-id"]
    assert {e["pointer"] for e in body["errors"]} == {"/content/criteria/0/wait", "/content/criteria/0/grader"}


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"{", "json_invalid"), (b'{"name": "a\\u0000"}', "nul_character"), (b"\xff{}", "bad_request"), (b"", "missing")],
)
def test_unreadable_bodies(http, content, code):
    answer = http.post("/v1/datasets", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)
    body = answer.json()
    assert code in (body["code"], *(e["code"] for e in body.get("errors", [])))
    assert "Traceback" not in answer.text


def test_unknown_paths_methods_and_parameters(http):
    assert http.get("/v1/nothing").json()["code"] == "not_found"
    assert http.delete("/v1/jobs").status_code == 405
    answer = http.get("/v1/jobs?limt=3")
    assert answer.status_code == 422
    assert "did you mean 'limit'" in answer.json()["detail"]
    assert http.get("/v1/jobs?limit=0").status_code == 422
    assert http.get("/v1/jobs?page_token=garbage!").json()["code"] == "invalid_page_token"


def test_a_body_over_the_limit_is_413_and_says_the_limit(http):
    answer = http.post("/v1/rubrics", content=b" " * (33 << 20), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert "32 MB" in answer.json()["detail"]


def test_keys_are_needed_known_and_unrevoked(api, http):
    for header in ({}, {"Authorization": "Basic x"}, {"Authorization": "Bearer gk_wrong"}):
        answer = httpx.get(f"{api.base_url}/v1/jobs", headers=header)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    made = api.post("/v1/api-keys", {"name": "short", "scopes": ["jobs:read"]})
    shown = next(key for key in api.pages("/v1/api-keys", limit=100) if key["id"] == made["id"])
    assert "key" not in shown
    assert made["key"].startswith(shown["prefix"])
    with GrapeClient(api.base_url, made["key"]) as other:
        assert other.get("/v1/jobs")["data"] is not None
        api.delete(f"/v1/api-keys/{made['id']}")
        with pytest.raises(ApiError, match="revoked"):
            other.get("/v1/jobs")
    expired = api.post("/v1/api-keys", {"name": "old", "scopes": ["jobs:read"], "expires_at": "2020-01-01T00:00:00Z"})
    with GrapeClient(api.base_url, expired["key"]) as other, pytest.raises(ApiError, match="expired"):
        other.get("/v1/jobs")


def test_scopes_and_the_order_of_checks(api):
    with with_scopes(api, "rubrics:read") as reader:
        with pytest.raises(ApiError) as caught:
            reader.post("/v1/rubrics", {"nonsense": 1})
        assert (caught.value.status, caught.value.code) == (403, "forbidden")  # before the body's 422
        assert "rubrics:write" in caught.value.message
        with pytest.raises(ApiError) as caught:
            reader.get("/v1/jobs")
        assert caught.value.status == 403
    with pytest.raises(ApiError) as caught:
        api.post("/v1/rubrics/rub_none/versions", {"nonsense": 1})
    assert caught.value.status == 404  # of the path, before the body's 422
    with pytest.raises(ApiError, match="unknown scope"):
        api.post("/v1/api-keys", {"name": "t", "scopes": ["job:read"]})


def test_another_projects_things_do_not_exist(api):
    project = api.post("/v1/projects", {"name": "other"})["id"]
    rubric = api.post("/v1/rubrics", {"name": "r", "content": CONTENT})["id"]
    judge = api.post("/v1/judges", {"name": "j", "endpoint": {"base_url": "http://127.0.0.1:1/v1", "model": "m"}})["id"]
    dataset = api.post("/v1/datasets", {"name": "d", "kind": "prompts"})["id"]
    with with_scopes(api, "admin", project=project) as other:
        for path in (
            f"/v1/rubrics/{rubric}",
            f"/v1/judges/{judge}",
            f"/v1/datasets/{dataset}",
            f"/v1/datasets/{dataset}/rows",
        ):
            with pytest.raises(ApiError) as caught:
                other.get(path)
            assert caught.value.status == 404
        for path in ("/v1/rubrics", "/v1/judges", "/v1/datasets", "/v1/jobs", "/v1/models"):
            assert other.get(path)["data"] == []
        criterion = {"key": "a", "weight": 1, "text": "t", "grader": {"type": "judge", "judge": judge}}
        with pytest.raises(ApiError) as caught:
            other.post("/v1/rubrics", {"name": "r", "content": {"criteria": [criterion]}})
        assert (caught.value.status, caught.value.code) == (422, "not_found")
        assert caught.value.errors[0]["pointer"] == "/content/criteria/0/grader/judge"


def test_idempotency_keys_replay_and_refuse_other_bodies(http):
    key = {"Idempotency-Key": uuid.uuid4().hex}
    body = {"name": "once", "kind": "prompts"}
    first = http.post("/v1/datasets", json=body, headers=key)
    second = http.post("/v1/datasets", json=body, headers=key)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert second.headers["idempotent-replayed"] == "true"
    other = http.post("/v1/datasets", json={**body, "name": "twice"}, headers=key)
    assert other.status_code == 422
    assert other.json()["code"] == "idempotency_mismatch"
    # a refused request stores nothing, so the key is free for the corrected one
    key = {"Idempotency-Key": uuid.uuid4().hex}
    assert http.post("/v1/datasets", json={"name": "x"}, headers=key).status_code == 422
    assert http.post("/v1/datasets", json=body, headers=key).status_code == 201


def test_idempotency_of_streamed_rows(http):
    dataset = http.post("/v1/datasets", json={"name": "d", "kind": "prompts"}).json()["id"]
    key = {"Idempotency-Key": uuid.uuid4().hex}
    rows = b'{"prompt": "a"}\n{"prompt": "b"}\n'
    first = http.post(f"/v1/datasets/{dataset}/rows", content=rows, headers=key)
    second = http.post(f"/v1/datasets/{dataset}/rows", content=rows, headers=key)
    assert first.json() == second.json()
    assert first.json()["rows"] == 2
    mismatch = http.post(f"/v1/datasets/{dataset}/rows", content=rows + b'{"prompt": "c"}\n', headers=key)
    assert mismatch.status_code == 422


def test_many_requests_with_one_key_make_one_thing(api):
    import concurrent.futures

    key = uuid.uuid4().hex

    def post(_):
        return api.request(
            "POST", "/v1/datasets", json={"name": key, "kind": "prompts"}, headers={"Idempotency-Key": key}
        )

    def attempt(n):
        try:
            return post(n).json()["id"]
        except ApiError as error:
            assert error.code == "idempotency_in_flight"
            return None

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        made = {dataset for dataset in pool.map(attempt, range(24)) if dataset}
    assert len(made) == 1


def test_pages_hold_every_row_once(api):
    project = api.post("/v1/projects", {"name": "pages"})["id"]
    with with_scopes(api, "admin", project=project) as own:
        names = [own.post("/v1/datasets", {"name": f"d{k}", "kind": "prompts"})["name"] for k in range(11)]
        assert [d["name"] for d in own.pages("/v1/datasets", limit=3)] == names
        page = own.get("/v1/datasets", limit=11)
        assert page["next_page_token"] is None


def test_openapi_names_a_scope_for_every_operation(http):
    document = http.get("/openapi.json").json()
    operations = [op for path, ops in document["paths"].items() if path.startswith("/v1") for op in ops.values()]
    assert len(operations) > 30
    assert all(op.get("x-scope") for op in operations)
    ids = [op["operationId"] for op in operations if "operationId" in op]
    assert len(set(ids)) == len(ids)
    assert http.get("/docs").status_code == 200
    assert http.get("/livez").json() == {"status": "ok"}


def test_times_are_utc_and_ids_prefixed(http):
    dataset = http.post("/v1/datasets", json={"name": "d", "kind": "prompts"}).json()
    assert dataset["id"].startswith("ds_")
    assert dataset["created_at"].endswith("Z")
    assert json.dumps(dataset)
