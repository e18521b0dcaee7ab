"""Rubrics, judges, models, datasets over HTTP: what is stored, what never changes, what is refused."""

import gzip
import json
import shutil

import httpx
import pytest

from examples.tiny_model import make_tiny_model
from service.client import ApiError, GrapeClient

WORDS = [chr(ord("a") + k) for k in range(26)]


def content(pattern="x", **criterion):
    return {"criteria": [{"key": "a", "weight": 1, "grader": {"type": "regex", "pattern": pattern}, **criterion}]}


@pytest.fixture
def raw(api):
    return api._http


@pytest.fixture
def model_folder(stack):
    folder = stack.folder / "models-of-tests"
    if not folder.exists():
        make_tiny_model(folder, WORDS, seed=0, hidden=32)
    return folder


# --- rubrics ---


def test_a_rubric_and_its_versions(api):
    rubric = api.post("/v1/rubrics", {"name": "r", "category": "c", "content": content("v1"), "message": "one"})
    assert (rubric["latest_version"], rubric["version"]["version"]) == (1, 1)
    two = api.publish_version(rubric["id"], content("v2"), "two")
    assert two["version"] == 2
    assert two["content"]["criteria"][0]["grader"]["pattern"] == "v2"
    again = api.publish_version(rubric["id"], content("v2"), "nothing new")
    assert (again["version"], again["message"]) == (2, "two")  # equal content is the same version
    assert [v["version"] for v in api.pages(f"/v1/rubrics/{rubric['id']}/versions")] == [1, 2]
    one = api.get(f"/v1/rubrics/{rubric['id']}/versions/1")
    assert one["hash"] == rubric["version"]["hash"] != two["hash"]
    assert api.get(f"/v1/rubrics/{rubric['id']}/versions/latest")["version"] == 2


def test_changes_of_a_rubric_need_its_etag(api, raw):
    rubric = api.post("/v1/rubrics", {"name": "r", "content": content()})
    path = f"/v1/rubrics/{rubric['id']}"
    assert raw.get(path).headers["etag"] == rubric["etag"]
    body = {"content": content("new")}
    assert raw.post(f"{path}/versions", json=body).status_code == 428
    stale = raw.post(f"{path}/versions", json=body, headers={"If-Match": '"old"'})
    assert stale.status_code == 412
    assert stale.headers["etag"] == rubric["etag"]
    done = raw.post(f"{path}/versions", json=body, headers={"If-Match": rubric["etag"]})
    assert done.status_code == 201
    assert raw.post(f"{path}/versions", json=body, headers={"If-Match": rubric["etag"]}).status_code == 412
    patched = raw.patch(path, json={"name": "renamed"}, headers={"If-Match": done.headers["etag"]})
    assert patched.json()["name"] == "renamed"
    assert patched.headers["etag"] != done.headers["etag"]


def test_versions_are_cacheable_for_ever(api, raw):
    rubric = api.post("/v1/rubrics", {"name": "r", "content": content()})
    answer = raw.get(f"/v1/rubrics/{rubric['id']}/versions/1")
    assert "immutable" in answer.headers["cache-control"]
    cached = raw.get(f"/v1/rubrics/{rubric['id']}/versions/1", headers={"If-None-Match": answer.headers["etag"]})
    assert (cached.status_code, cached.content) == (304, b"")


def test_aliases_move(api):
    rubric = api.post("/v1/rubrics", {"name": "r", "content": content("v1")})
    path = f"/v1/rubrics/{rubric['id']}"
    api.publish_version(rubric["id"], content("v2"))
    for number in (1, 2):
        head = api.put(f"{path}/aliases/production", {"version": number}, if_match=api.get(path)["etag"])
        assert head["aliases"] == {"production": number}
        assert api.get(f"{path}/versions/production")["version"] == number
    for alias, version in (("production", 9), ("7", 1), ("latest", 1)):
        with pytest.raises(ApiError) as caught:
            api.put(f"{path}/aliases/{alias}", {"version": version}, if_match=api.get(path)["etag"])
        assert caught.value.status == 422
    with pytest.raises(ApiError, match="latest version is 2"):
        api.get(f"{path}/versions/staging")


def test_validate_stores_nothing(api):
    before = len(list(api.pages("/v1/rubrics", limit=1000)))
    answer = api.post("/v1/rubrics/validate", {"content": content()})
    assert answer["valid"]
    assert len(answer["hash"]) == 64
    with pytest.raises(ApiError) as caught:
        api.post("/v1/rubrics/validate", {"content": content(weight=0)})
    assert caught.value.errors[0]["pointer"] == "/content/criteria/0/weight"
    assert len(list(api.pages("/v1/rubrics", limit=1000))) == before


@pytest.mark.parametrize(
    ("grader", "place"),
    [
        ({"type": "regex", "pattern": "("}, "/content/criteria/0/grader/pattern"),
        ({"type": "json_schema", "schema": {"type": "objekt"}}, "/content/criteria/0/grader/schema"),
        ({"type": "json_schema", "schema": {"$ref": "http://127.0.0.1:9/x"}}, "/content/criteria/0/grader/schema"),
        ({"type": "json_schema", "schema": {"items": {"$ref": "#/$defs/gone"}}}, "/content/criteria/0/grader/schema"),
        ({"type": "json_schema", "schema": {"$id": "http://[bad"}}, "/content/criteria/0/grader/schema"),
        ({"type": "numeric", "reference": "1", "extract": "regex:("}, "/content/criteria/0/grader/extract"),
        ({"type": "similarity", "metric": "meteor", "reference": "x"}, "/content/criteria/0/grader/metric"),
        (
            {"type": "composite", "formula": "1 - a", "graders": {"a": {"type": "regex", "pattern": "("}}},
            "/content/criteria/0/grader/graders/a/pattern",
        ),
        (
            {"type": "composite", "formula": "1 -", "graders": {"a": {"type": "regex", "pattern": "a"}}},
            "/content/criteria/0/grader/formula",
        ),
    ],
)
def test_graders_that_could_never_work_are_refused_at_publish(api, grader, place):
    with pytest.raises(ApiError) as caught:
        api.post("/v1/rubrics", {"name": "r", "content": content(grader=grader)})
    assert caught.value.errors[0]["pointer"] == place


# --- judges ---


def test_a_judges_revisions_are_immutable_and_its_secret_is_write_only(api):
    endpoint = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "api_key": "sk-very-secret"}
    judge = api.post("/v1/judges", {"name": "j", "endpoint": endpoint})
    assert "sk-very-secret" not in json.dumps(judge)
    assert judge["has_api_key"]
    path = f"/v1/judges/{judge['id']}"
    same = api.patch(path, {"concurrency": 3, "name": "renamed", "endpoint": {"api_key": "sk-other"}})
    assert (same["revision"], same["fingerprint"], same["concurrency"]) == (1, judge["fingerprint"], 3)
    assert same["etag"] != judge["etag"]
    new = api.patch(path, {"votes": 3, "endpoint": {"model": "m2"}})
    assert (new["revision"], new["votes"], new["endpoint"]["base_url"]) == (2, 3, "http://127.0.0.1:1/v1")
    assert new["fingerprint"] != judge["fingerprint"]
    assert [r["config"]["votes"] for r in api.pages(f"{path}/revisions")] == [1, 3]
    assert api.get(f"{path}/revisions/1")["config"]["endpoint"]["model"] == "m"
    assert not api.patch(path, {"endpoint": {"api_key": None}})["has_api_key"]
    for bad in ({"votes": 0}, {"name": None}, {"sampling": {"temprature": 1}}):
        with pytest.raises(ApiError) as caught:
            api.patch(path, bad)
        assert caught.value.status == 422


def test_a_limited_rate_is_set_changed_and_lifted(api):
    endpoint = {"base_url": "http://127.0.0.1:1/v1", "model": "m"}
    body = {"name": "j", "endpoint": endpoint, "rate_limit": {"requests_per_minute": 60}}
    judge = api.post("/v1/judges", body)
    assert judge["rate_limit"] == {"requests_per_minute": 60, "tokens_per_minute": None}
    path = f"/v1/judges/{judge['id']}"
    assert api.patch(path, {"concurrency": 3})["rate_limit"] == judge["rate_limit"]
    changed = api.patch(path, {"rate_limit": {"tokens_per_minute": 1000}})
    assert changed["rate_limit"] == {"requests_per_minute": None, "tokens_per_minute": 1000}
    lifted = api.patch(path, {"rate_limit": None})
    assert (lifted["rate_limit"], lifted["revision"]) == (None, 1)
    for bad in ({"requests_per_minute": 0}, {"tokens_per_minute": -1}, {"requests_per_second": 1}):
        with pytest.raises(ApiError) as caught:
            api.patch(path, {"rate_limit": bad})
        assert caught.value.errors[0]["pointer"].startswith("/rate_limit/")


def test_a_secret_is_not_readable_in_the_database(api, stack):
    import psycopg

    secrets = json.loads((stack.folder / "secrets.json").read_text())
    (pid,) = stack.pids("postgres")
    with open(f"/proc/{pid}/cmdline", "rb") as stream:
        port = next(w for w in stream.read().decode().split("\0") if w.startswith("port=")).removeprefix("port=")
    key = api.post("/v1/api-keys", {"name": "k", "scopes": ["grade"]})["key"]
    endpoint = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "api_key": "sk-find-me"}
    judge = api.post("/v1/judges", {"name": "j", "endpoint": endpoint})["id"]
    with psycopg.connect(f"postgresql://postgres:{secrets['postgres']}@127.0.0.1:{port}/grape") as connection:
        (stored,) = connection.execute("SELECT secret FROM judges WHERE id = %s", [judge]).fetchone()
        assert b"sk-find-me" not in bytes(stored)
        assert connection.execute("SELECT count(*) FROM api_keys WHERE hash = %s", [key]).fetchone() == (0,)


# --- models ---


def test_a_model_is_its_files(api, model_folder):
    model = api.register_model("m", {"path": str(model_folder)})
    assert model["status"] == "ready"
    assert {f["path"] for f in model["files"]} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert model["sha256"] == api.register_model("again", {"path": str(model_folder)})["sha256"]
    assert model["config"]["model_type"] == "llama"


def write_anything(folder):
    (folder / "model.safetensors").write_bytes(b"not safetensors")


def cut_the_end(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def claim_a_huge_header(folder):
    path = folder / "model.safetensors"
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


def name_a_missing_shard(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}')


def break_the_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"model": ')


def make_a_list_of_the_config(folder):
    (folder / "config.json").write_text("[]")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (write_anything, "no safetensors file"),
        (cut_the_end, "cut off or damaged"),
        (claim_a_huge_header, "no safetensors file"),
        (name_a_missing_shard, "model-00002-of-00002.safetensors"),
        (break_the_tokenizer, "tokenizer.json cannot be read"),
        (make_a_list_of_the_config, "config.json is no JSON object"),
    ],
)
def test_a_model_that_cannot_be_read_is_refused_when_it_is_registered(api, stack, model_folder, damage, said):
    folder = stack.folder / f"unreadable-{damage.__name__}"
    shutil.copytree(model_folder, folder)
    damage(folder)
    before = len(list(api.pages("/v1/models", limit=1000)))
    with pytest.raises(ApiError) as caught:
        api.post("/v1/models", {"name": "m", "source": {"path": str(folder)}})
    assert (caught.value.status, caught.value.code) == (422, "model_invalid")
    assert said in caught.value.message
    assert len(list(api.pages("/v1/models", limit=1000))) == before


def test_models_that_are_refused(api, stack, model_folder):
    broken = stack.folder / "broken-model"
    shutil.copytree(model_folder, broken, dirs_exist_ok=True)
    circle = stack.folder / "circle"
    circle.symlink_to(circle)
    cases = [
        ({"path": "/etc"}, "path_not_allowed"),
        ({"path": "models"}, "path_not_absolute"),
        ({"path": f"{stack.folder}/../../../etc"}, "path_not_allowed"),
        ({"path": str(stack.folder / "nowhere")}, "model_invalid"),
        ({"path": str(circle)}, "model_invalid"),
        ({}, "one_of"),
        ({"path": "/a", "hub": "b"}, "one_of"),
        ({"checkpoint": "ckpt_none"}, "not_found"),
    ]
    for source, code in cases:
        with pytest.raises(ApiError) as caught:
            api.post("/v1/models", {"name": "m", "source": source})
        assert code in (caught.value.code, caught.value.errors[0]["code"]), source
    (broken / "config.json").write_text("{")
    with pytest.raises(ApiError, match="cannot be read"):
        api.post("/v1/models", {"name": "m", "source": {"path": str(broken)}})
    (broken / "config.json").write_text("{}")
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(ApiError, match="pickle"):
        api.post("/v1/models", {"name": "m", "source": {"path": str(broken)}})
    escape = stack.folder / "escape"
    escape.unlink(missing_ok=True)
    escape.symlink_to("/etc")
    with pytest.raises(ApiError) as caught:
        api.post("/v1/models", {"name": "m", "source": {"path": str(escape)}})
    assert caught.value.code == "path_not_allowed"


def test_a_model_that_the_hub_does_not_give_fails_with_a_sentence(api):
    with pytest.raises(ApiError, match="could not be fetched"):
        api.register_model("m", {"hub": "nobody/nothing-of-this-name"}, timeout_s=120)


# --- datasets ---


def test_rows_are_published_in_batches_that_chain(api):
    dataset = api.post("/v1/datasets", {"name": "d", "kind": "prompts"})
    path = f"/v1/datasets/{dataset['id']}"
    first = api.upload_rows(dataset["id"], [{"prompt": "a"}, {"prompt": "b", "reference": 3}])
    one = api.get(path)
    second = api.upload_rows(dataset["id"], [{"prompt": "b", "reference": 3}, {"prompt": "c"}, {"prompt": "c"}])
    two = api.get(path)
    assert (first["rows"], first["duplicates"]) == (2, 0)
    assert (second["rows"], second["duplicates"]) == (1, 2)
    assert (two["rows"], two["batches"]) == (3, 2)
    assert one["hash"] != two["hash"]
    rows = list(api.pages(f"{path}/rows", limit=2))
    assert [(r["seq"], r["content"]["prompt"]) for r in rows] == [(1, "a"), (2, "b"), (3, "c")]
    # the chain is the sha256 of the hash before and the rows' hashes in order
    import hashlib

    from service.domain.base import canonical_json

    chain = ""
    for batch in ([rows[0], rows[1]], [rows[2]]):
        digests = b"".join(hashlib.sha256(canonical_json(r["content"]).encode()).digest() for r in batch)
        chain = hashlib.sha256(chain.encode() + digests).hexdigest()
    assert two["hash"] == chain


def test_a_broken_line_is_named_and_nothing_is_stored(api, raw):
    dataset = api.post("/v1/datasets", {"name": "d", "kind": "prompts"})["id"]
    lines = (
        b'{"prompt": "a"}\n\n{"promt": "b"}\n{oops\n{"prompt": "c", "metadata": {"x": NaN}}\n{"prompt": "\\u0000"}\n'
    )
    answer = raw.post(f"/v1/datasets/{dataset}/rows", content=lines)
    assert answer.status_code == 422
    body = answer.json()
    assert [(e["line"], e["code"]) for e in body["errors"]] == [
        (3, "unknown_field"), (4, "json_invalid"), (5, "invalid_number"), (6, "nul_character"),
    ]  # fmt: skip
    assert "did you mean 'prompt'" in body["detail"]
    assert api.get(f"/v1/datasets/{dataset}")["rows"] == 0
    kept = raw.post(f"/v1/datasets/{dataset}/rows?on_error=skip", content=lines).json()
    assert (kept["rows"], kept["error_count"]) == (1, 4)


def test_gzip_bodies_and_other_encodings(api, raw):
    dataset = api.post("/v1/datasets", {"name": "d", "kind": "prompts"})["id"]
    packed = gzip.compress(b"".join(json.dumps({"prompt": f"p{k}"}).encode() + b"\n" for k in range(5000)))
    answer = raw.post(f"/v1/datasets/{dataset}/rows", content=packed, headers={"Content-Encoding": "gzip"})
    assert answer.json()["rows"] == 5000
    for content_, encoding in ((packed[:-9], "gzip"), (b"x", "gzip"), (b"{}", "br")):
        answer = raw.post(f"/v1/datasets/{dataset}/rows", content=content_, headers={"Content-Encoding": encoding})
        assert answer.status_code == 400
    assert api.get(f"/v1/datasets/{dataset}")["rows"] == 5000


def test_two_imports_at_once_share_no_sequence_number(api):
    import concurrent.futures

    dataset = api.post("/v1/datasets", {"name": "d", "kind": "prompts"})["id"]

    def load(n):
        with GrapeClient(api.base_url, api._http.headers["Authorization"].removeprefix("Bearer ")) as own:
            return own.upload_rows(dataset, [{"prompt": f"{n}/{k}"} for k in range(200)])["rows"]

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(load, range(4))) == [200] * 4
    assert [r["seq"] for r in api.pages(f"/v1/datasets/{dataset}/rows", limit=300)] == list(range(1, 801))


def test_kinds_are_known(api):
    with pytest.raises(ApiError) as caught:
        api.post("/v1/datasets", {"name": "d", "kind": "prompt"})
    assert "'prompts'" in caught.value.message


def test_a_client_that_breaks_off_leaves_nothing(api):
    dataset = api.post("/v1/datasets", {"name": "d", "kind": "prompts"})["id"]

    def pieces():
        yield b'{"prompt": "a"}\n' * 10
        raise ConnectionError

    with pytest.raises(ConnectionError), httpx.Client(headers=api._http.headers) as other:
        other.post(f"{api.base_url}/v1/datasets/{dataset}/rows", content=pieces())
    assert api.get(f"/v1/datasets/{dataset}")["rows"] == 0
