"""Rubrics that include others, over HTTP: pinning, resolved hashes, cycles, places of faults."""

import pytest

from service.client import ApiError


def content(pattern="x", key="a", weight=1, **rest):
    return {"criteria": [{"key": key, "weight": weight, "grader": {"type": "regex", "pattern": pattern}}], **rest}


def create(api, body, name="r"):
    return api.post("/v1/rubrics", {"name": name, "content": body})["id"]


def including(rubric, version="latest", name="m", **rest):
    return {"includes": [{"as": name, "rubric": rubric, "version": version, "weight": 0.5}], **rest}


def refused(api, body, **more):
    with pytest.raises(ApiError) as caught:
        api.post("/v1/rubrics/validate", {"content": body, **more})
    assert caught.value.status == 422
    return [(e["pointer"], e["code"]) for e in caught.value.errors]


def test_an_alias_is_pinned_at_publish_and_the_resolved_content_is_hashed(api):
    module = create(api, content("one", weight=4, guidelines="inner"))
    outer = create(api, including(module, guidelines="outer", **content("own", key="own")))
    first = api.get(f"/v1/rubrics/{outer}/versions/1")
    assert first["content"]["includes"] == [{"as": "m", "rubric": module, "version": 1, "weight": 0.5}]
    assert [(c["key"], c["weight"]) for c in first["resolved"]["criteria"]] == [("own", 1), ("m.a", 2)]
    assert first["resolved"]["guidelines"] == "outer\n\ninner"
    assert "includes" not in first["resolved"]
    # the same names again: what they stand for has not moved, so it is the same version
    again = api.publish_version(outer, including(module, guidelines="outer", **content("own", key="own")))
    assert again["version"] == 1
    # the module moves; the old version does not
    api.publish_version(module, content("two", weight=4, guidelines="inner"))
    assert api.get(f"/v1/rubrics/{outer}/versions/1")["resolved"] == first["resolved"]
    moved = api.publish_version(outer, including(module, guidelines="outer", **content("own", key="own")))
    assert (moved["version"], moved["content"]["includes"][0]["version"]) == (2, 2)
    assert moved["hash"] != first["hash"]
    # written out by hand, the same criteria have other keys; a copy of the module under another id resolves to the same
    copy = create(api, content("two", weight=4, guidelines="inner"))
    same = api.publish_version(outer, including(copy, guidelines="outer", **content("own", key="own")))
    assert (same["version"], same["hash"]) == (2, moved["hash"])


def test_a_rubric_without_includes_resolves_to_itself(api):
    version = api.post("/v1/rubrics", {"name": "r", "content": content()})["version"]
    assert version["resolved"] is None
    checked = api.post("/v1/rubrics/validate", {"content": content()})
    assert checked["resolved"] == checked["content"] == version["content"]
    assert checked["hash"] == version["hash"]


def test_named_aliases_and_chains(api):
    inner = create(api, content("i", weight=8))
    api.publish_version(inner, content("newer", weight=8))
    head = api.get(f"/v1/rubrics/{inner}")
    api.put(f"/v1/rubrics/{inner}/aliases/production", {"version": 1}, if_match=head["etag"])
    middle = create(api, including(inner, "production"))
    checked = api.post("/v1/rubrics/validate", {"content": including(middle, name="top")})
    (only,) = checked["resolved"]["criteria"]
    assert (only["key"], only["weight"], only["grader"]["pattern"]) == ("top.m.a", 2.0, "i")


def test_includes_that_lead_nowhere_are_named_together(api):
    real = create(api, content())
    body = {
        "includes": [
            {"as": "x", "rubric": "rub_none"},
            {"as": "y", "rubric": real, "version": 7},
            {"as": "z", "rubric": real, "version": "production"},
            {"as": "n", "rubric": real, "version": 99999999999},
            {"as": "ok", "rubric": real},
        ]
    }
    assert refused(api, body) == [
        ("/content/includes/0/rubric", "not_found"),
        ("/content/includes/1/version", "not_found"),
        ("/content/includes/2/version", "not_found"),
        ("/content/includes/3/version", "not_found"),
    ]


def test_another_projects_rubric_cannot_be_included(api):
    from service.client import GrapeClient

    foreign = create(api, content())
    project = api.post("/v1/projects", {"name": "other"})["id"]
    key = api.post("/v1/api-keys", {"name": "t", "scopes": ["admin"], "project": project})["key"]
    with GrapeClient(api.base_url, key) as other:
        assert refused(other, including(foreign)) == [("/content/includes/0/rubric", "not_found")]


def test_cycles_are_refused_however_long(api):
    first = create(api, content("1"))
    second = create(api, including(first))
    third = create(api, including(second))
    with pytest.raises(ApiError, match=f"{first} → {third} → {second} → {first}") as caught:
        api.publish_version(first, including(third))
    assert caught.value.errors[0]["pointer"] == "/content/includes/0/rubric"
    assert caught.value.errors[0]["code"] == "cycle"
    assert refused(api, including(first), rubric=first) == [("/content/includes/0/rubric", "cycle")]
    assert api.get(f"/v1/rubrics/{first}")["latest_version"] == 1
    # two ways to one module are no cycle
    diamond = {"includes": [{"as": "a", "rubric": first}, {"as": "b", "rubric": second}]}
    assert len(api.post("/v1/rubrics/validate", {"content": diamond})["resolved"]["criteria"]) == 2


def test_faults_of_the_flat_content_have_a_place_in_the_authored_one(api):
    tiny = create(api, content(weight=1e-9))
    body = {"includes": [{"as": "m", "rubric": tiny, "weight": 1e-320}]}
    assert refused(api, body) == [("/content/includes/0/weight", "invalid_weight")]
    many = create(api, {"criteria": [content(key=f"c{k}")["criteria"][0] for k in range(300)]})
    body = {"includes": [{"as": "m", "rubric": many}, {"as": "n", "rubric": many}]}
    assert refused(api, body) == [("/content/includes", "too_long")]


def test_the_openapi_shows_includes(api):
    document = api.get("/openapi.json")
    schemas = document["components"]["schemas"]
    include = next(schema for name, schema in schemas.items() if name.startswith("Include"))
    assert set(include["properties"]) == {"as", "rubric", "version", "weight"}
