"""What no client should send and some will: every answer is a 4xx problem that says what is wrong, and nothing is made."""

import gzip
import json

import httpx
import psycopg
import pytest

from service.client import find_credentials

JSON = {"Content-Type": "application/json"}
REGEX = {"type": "regex", "pattern": "x"}


@pytest.fixture
def http(stack):
    base_url, key = find_credentials(stack.folder)
    with httpx.Client(base_url=base_url, headers={"Authorization": f"Bearer {key}"}, timeout=60) as client:
        yield client


@pytest.fixture
def dataset(http):
    made = http.post("/v1/datasets", json={"name": "d", "kind": "prompts"}).json()["id"]
    http.post(f"/v1/datasets/{made}/rows", content=b'{"prompt": "a"}\n')
    return made


def refused(answer, status=422):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["detail"]
    return body


def rubric(weight="1", key="a", extra=""):
    return f'{{"name": "r", "content": {{"criteria": [{{"key": "{key}", "weight": {weight}{extra}, "grader": {json.dumps(REGEX)}}}]}}}}'


@pytest.mark.parametrize(
    ("body", "code", "place"),
    [
        (rubric("NaN"), "finite_number", "/content/criteria/0/weight"),
        (rubric("-Infinity"), "finite_number", "/content/criteria/0/weight"),
        (rubric("1e999"), "finite_number", "/content/criteria/0/weight"),
        (rubric("9" * 400 + ".5"), "finite_number", "/content/criteria/0/weight"),
        (rubric("9" * 5000), "invalid_number", None),
        (rubric("0"), "greater_than", "/content/criteria/0/weight"),
        (rubric("1", extra=', "weight": 2'), "duplicate_field", None),
        (rubric(extra=', "tags": ["\\ud800"]'), "invalid_character", "/content/criteria/0/tags/0"),
        (rubric(extra=', "\\udc00": 1'), "invalid_character", "/content/criteria/0"),
        (rubric(extra=', "tags": ' + "[" * 200 + "]" * 200), "too_deep", ""),
        (rubric(extra=', "tags": ' + "[" * 90_000 + "]" * 90_000), "too_deep", None),
    ],
)
def test_json_that_cannot_be_stored(http, body, code, place):
    found = refused(http.post("/v1/rubrics", content=body.encode(), headers=JSON))
    assert code in {found["code"], *(e["code"] for e in found.get("errors", []))}
    assert found["error"]["param"] == place


def test_free_json_is_checked_like_the_rest(http, dataset):
    """`metadata`, schemas and references are any JSON; what is not JSON must not reach the database."""
    schema = {"type": "json_schema", "schema": {"const": 1}}
    body = {"name": "r", "content": {"criteria": [{"key": "a", "weight": 1, "grader": schema}]}}
    raw = json.dumps(body).replace('"const": 1', '"const": NaN')
    found = refused(http.post("/v1/rubrics", content=raw.encode(), headers=JSON))
    assert found["errors"][0]["pointer"] == "/content/criteria/0/grader/schema/const"


def test_an_emoji_written_as_a_surrogate_pair_is_kept(http):
    made = http.post("/v1/datasets", content=b'{"name": "\\ud83d\\ude00", "kind": "prompts"}', headers=JSON)
    assert made.json()["name"] == "\N{GRINNING FACE}"


@pytest.mark.parametrize(
    "headers",
    [{"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": "text/plain"}, {}],
)
def test_curl_without_a_content_type_is_told_so(http, headers):
    found = refused(http.post("/v1/datasets", content=b'{"name": "d", "kind": "prompts"}', headers=headers), 415)
    assert "Content-Type: application/json" in found["detail"]


def test_packed_json_is_told_so(http):
    packed = gzip.compress(b'{"name": "d", "kind": "prompts"}')
    found = refused(http.post("/v1/datasets", content=packed, headers={**JSON, "Content-Encoding": "gzip"}), 415)
    assert "Content-Encoding" in found["detail"]


def test_a_name_of_spaces_is_empty(http):
    found = refused(http.post("/v1/datasets", json={"name": "   ", "kind": "prompts"}))
    assert found["errors"][0]["pointer"] == "/name"
    assert http.post("/v1/datasets", json={"name": "  d ", "kind": "prompts"}).json()["name"] == "d"


@pytest.mark.parametrize(
    "key", [["x"], [True], [1.5], [2**70], [1e300], ["\0"], ["\ud800"], [1, 2], {"a": 1}, 7, None, [[1]]]
)
def test_page_tokens_of_elsewhere(http, dataset, key):
    """A list's key is a number or an id; a token that holds anything else is refused, not handed to the database."""
    from service.deps import encode_token

    token = encode_token(key) if isinstance(key, list) else "e30"
    for path in (f"/v1/datasets/{dataset}/rows", "/v1/jobs"):
        answer = http.get(path, params={"page_token": token})
        if path == "/v1/jobs" and key == ["x"]:  # an id that sorts somewhere
            assert answer.status_code == 200
        else:
            assert refused(answer)["code"] == "invalid_page_token"


@pytest.mark.parametrize("token", ["W" * 60_000, "\N{EURO SIGN}", "====", "WzFlNDAwXQ"])
def test_page_tokens_that_are_noise(http, dataset, token):
    answer = http.get(f"/v1/datasets/{dataset}/rows", params={"page_token": token})
    assert refused(answer)["code"] == "invalid_page_token"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/jobs?name=%00", 422),
        ("GET", "/v1/critiques?criterion=a%00", 422),
        ("GET", "/v1/jobs/%00", 404),
        ("GET", "/v1/jobs/job_%ED%A0%80", 404),
        ("POST", "/v1/jobs/%00/cancel", 404),
    ],
)
def test_nul_in_addresses(http, method, path, status):
    refused(http.request(method, path), status)


def test_versions_and_aliases_that_cannot_be(http):
    made = http.post("/v1/rubrics", content=rubric().encode(), headers=JSON).json()
    place = f"/v1/rubrics/{made['id']}"
    for name in ("²", "9" * 5000, "0", "-1", "%00"):
        refused(http.get(f"{place}/versions/{name}"), 404)
    for alias, version in (("a" * 65, 1), ("a", 2**31), ("a", 10**30), ("²", 1)):
        refused(http.put(f"{place}/aliases/{alias}", json={"version": version}, headers={"If-Match": made["etag"]}))
    assert http.get(place).json()["aliases"] == {}


@pytest.mark.parametrize(
    ("endpoint", "place"),
    [
        ({"base_url": "http://h:99999/v1"}, "/endpoint/base_url"),
        ({"base_url": "http://[::1/v1"}, "/endpoint/base_url"),
        ({"api_key": "two\nlines"}, "/endpoint/api_key"),
        ({"api_key": "schl\N{LATIN SMALL LETTER U WITH DIAERESIS}ssel"}, "/endpoint/api_key"),
        ({"api_key": ""}, "/endpoint/api_key"),
    ],
)
def test_endpoints_that_could_never_be_asked(http, endpoint, place):
    body = {"name": "j", "endpoint": {"base_url": "http://127.0.0.1:9/v1", "model": "m", **endpoint}}
    found = refused(http.post("/v1/judges", json=body))
    assert found["errors"][0]["pointer"] == place
    assert not endpoint.get("api_key") or endpoint["api_key"] not in found["detail"]


def test_an_unknown_type_names_the_nearest(http):
    found = refused(http.post("/v1/jobs", json={"algorithm": {"type": "grap"}, "policy": {"model": "mdl_0"}}))
    said = {e["pointer"]: e["message"] for e in found["errors"]}
    assert said["/algorithm/type"] == "unknown type 'grap'; did you mean 'grape'?"


# --- rows ---


def test_a_gzip_file_of_several_members_is_read_to_its_end(http, dataset):
    """RFC 1952 §2.2: members follow each other. Rows after the first one were lost without a word."""
    packed = b"".join(gzip.compress(json.dumps({"prompt": f"p{k}"}).encode() + b"\n") for k in range(300))
    for tail in (b"", b"\0" * 512):  # padding to a block, as tape tools leave it
        made = http.post("/v1/datasets", json={"name": "d", "kind": "prompts"}).json()["id"]
        answer = http.post(f"/v1/datasets/{made}/rows", content=packed + tail, headers={"Content-Encoding": "gzip"})
        assert answer.json()["rows"] == 300
    broken = packed + gzip.compress(b'{"prompt": "last"}\n')[:-4]
    refused(http.post(f"/v1/datasets/{dataset}/rows", content=broken, headers={"Content-Encoding": "gzip"}), 400)


def test_a_byte_order_mark_before_a_line_without_end(http, dataset):
    answer = http.post(f"/v1/datasets/{dataset}/rows", content=b'\xef\xbb\xbf{"prompt": "marked"}')
    assert answer.json()["rows"] == 1


def test_a_row_nested_too_deep_names_its_line(http, dataset):
    deep = b'{"prompt": "a", "metadata": {"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}"
    found = refused(http.post(f"/v1/datasets/{dataset}/rows", content=b'{"prompt": "b"}\n' + deep))
    assert found["errors"][0]["line"] == 2
    assert http.get(f"/v1/datasets/{dataset}").json()["rows"] == 1


def test_addresses_that_are_none(http):
    assert http.get("/v1/jobs", headers={"Host": "["}).status_code < 500


def test_an_error_of_ours_leaves_the_connection_usable(stack, http, dataset):
    """A row that this version cannot know: a sentence, and the next request on the same connection is answered."""
    secrets = json.loads((stack.folder / "secrets.json").read_text())
    with psycopg.connect(f"postgresql://postgres:{secrets['postgres']}@127.0.0.1:{stack.port('postgres')}/grape") as db:
        db.execute("UPDATE datasets SET kind = 'poems' WHERE id = %s", [dataset])
    for _ in range(3):
        answer = http.post(f"/v1/datasets/{dataset}/rows", content=b'{"prompt": "a"}\n')
        body = refused(answer, 500)
        assert body["request_id"] == answer.headers["x-request-id"]
        assert "Traceback" not in answer.text
        assert http.get("/v1/datasets").status_code == 200
