"""Verifiers: what hits, what misses, what cannot be read, and whose fault a failure is."""

import http.server
import threading
import time

import pytest

from service.domain.rubric import Criterion
from service.grader_checks import grader_faults
from workers.graders.verifiers import VERIFIERS, verify

PROMPT = {"reference": "42", "category": None, "metadata": {"word": "Pear", "big": 10**30, "list": [1]}, "messages": []}


def cell(grader, text, polarity="met_is_good"):
    criterion = Criterion.model_validate({"key": "a", "weight": 1, "polarity": polarity, "grader": grader})
    return verify(criterion, PROMPT, text)


HITS = [
    ({"type": "exact", "reference": "{{ prompt.reference }}"}, " 42\n", 1),
    ({"type": "exact", "reference": "{{ prompt.reference }}", "strip": False}, " 42", 0),
    ({"type": "exact", "reference": "straße"}, "STRASSE", 0),
    ({"type": "exact", "reference": "straße", "ignore_case": True}, "STRASSE", 1),
    ({"type": "contains", "values": ["a", "b"]}, "b then a", 1),
    ({"type": "contains", "values": ["a", "z"]}, "b then a", 0),
    ({"type": "contains", "values": ["a", "z"], "mode": "any"}, "b then a", 1),
    ({"type": "contains", "values": ["{{ prompt.metadata.word }}"], "ignore_case": True}, "a pear.", 1),
    ({"type": "regex", "pattern": r"^\d+$"}, "123", 1),
    ({"type": "regex", "pattern": r"\bno\b", "must_match": False}, "not here", 1),
    ({"type": "regex", "pattern": r"\bno\b", "must_match": False}, "no", 0),
    ({"type": "numeric", "reference": "42"}, "6 × 7 makes 42.", 1),
    ({"type": "numeric", "reference": "42"}, "42 or rather 43", 0),
    ({"type": "numeric", "reference": "1234.5"}, "about 1,234.50", 1),
    ({"type": "numeric", "reference": "-0.5"}, "x = -.5", 1),
    ({"type": "numeric", "reference": "1e3"}, "1000", 1),
    ({"type": "numeric", "reference": "3.1416", "abs_tol": 0.001}, "pi is 3.1412", 1),
    ({"type": "numeric", "reference": "100", "rel_tol": 0.01}, "101", 1),
    ({"type": "numeric", "reference": "100", "rel_tol": 0.01}, "101.5", 0),
    ({"type": "numeric", "reference": "{{ prompt.metadata.big }}"}, f"{10**30}", 1),
    ({"type": "numeric", "reference": "{{ prompt.metadata.big }}"}, f"{10**30 + 1}", 0),
    ({"type": "numeric", "reference": "7", "extract": r"regex:answer:\s*(\S+)"}, "9 answer: 7 8", 1),
    ({"type": "json_schema", "schema": {"type": "object", "required": ["a"]}}, ' {"a": 1}\n', 1),
    ({"type": "json_schema", "schema": {"type": "object", "required": ["a"]}}, '{"b": 1}', 0),
    ({"type": "json_schema", "schema": {"required": ["a"]}, "extract": "first_object"}, 'So: {x} {"a": 1} {"b": 2}', 1),
    ({"type": "json_schema", "schema": {"properties": {"a": {"pattern": "^x+$"}}}}, '{"a": "xx"}', 1),
    ({"type": "similarity", "metric": "fuzzy_match", "reference": "pear", "threshold": 0.75}, "peas", 1),
    ({"type": "similarity", "metric": "fuzzy_match", "reference": "pear", "threshold": 0.75}, "plum", 0),
]


@pytest.mark.parametrize(("grader", "text", "expected"), HITS)
def test_hits_and_misses(grader, text, expected):
    good, bad = cell(grader, text), cell(grader, text, "met_is_bad")
    assert (good.status, good.score, good.confidence, good.confidence_source) == (
        "ok",
        float(expected),
        1.0,
        "verifier",
    )
    assert bad.score == 1.0 - expected


UNREADABLE = [
    ({"type": "numeric", "reference": "42"}, "no number at all"),
    ({"type": "numeric", "reference": "42"}, ""),
    ({"type": "numeric", "reference": "42", "extract": "regex:=(.*)"}, "= forty-two"),
    ({"type": "numeric", "reference": "42"}, "9" * 5000),
    ({"type": "numeric", "reference": "42", "extract": "regex:(.*)"}, "1e999"),
    ({"type": "json_schema", "schema": {}}, "not json"),
    ({"type": "json_schema", "schema": {}}, '{"a": 1} and more'),
    ({"type": "json_schema", "schema": {}}, '{"a": NaN}'),
    ({"type": "json_schema", "schema": {}}, "[" * 100_000),
    ({"type": "json_schema", "schema": {}, "extract": "first_object"}, "{" * 100_000),
]


@pytest.mark.parametrize(("grader", "text"), UNREADABLE)
@pytest.mark.parametrize("polarity", ["met_is_good", "met_is_bad"])
def test_what_cannot_be_read_is_bad_under_either_polarity(grader, text, polarity):
    found = cell(grader, text, polarity)
    assert (found.status, found.score) == ("ok", 0.0)
    assert found.reason


def test_a_schema_makes_nobody_fetch_anything():
    """A reference to a server is the author's fault, and no request from inside the network (jsonschema's default sends one)."""
    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{server.server_port}/schema"
        found = cell({"type": "json_schema", "schema": {"$ref": place}}, "{}")
        server.shutdown()
    assert (found.status, found.score, asked) == ("infra_error", None, [])
    assert place in found.reason


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}},
        {
            "$id": "urn:tree",
            "type": "object",
            "properties": {"a": {"$anchor": "n", "type": "integer"}, "b": {"$ref": "#n"}},
        },
        {"$ref": "https://json-schema.org/draft/2020-12/schema"},
    ],
)
def test_references_inside_a_schema_are_no_fault(schema):
    criterion = Criterion.model_validate({"key": "k", "weight": 1, "grader": {"type": "json_schema", "schema": schema}})
    assert grader_faults([criterion], "") == []
    assert cell({"type": "json_schema", "schema": schema}, "{}").status == "ok"


GRADERS_FAULT = [
    ({"type": "numeric", "reference": "{{ prompt.metadata.word }}"}, "1", "infra_error"),
    ({"type": "exact", "reference": "{{ prompt.metadata.absent }}"}, "1", "infra_error"),
    ({"type": "json_schema", "schema": {"$ref": "https://example.com/x"}}, "{}", "infra_error"),
    ({"type": "json_schema", "schema": {"$ref": "#/$defs/nothing"}}, "{}", "infra_error"),
    ({"type": "regex", "pattern": r"(a|aa)+$"}, "a" * 60 + "b", "timeout"),
    ({"type": "numeric", "reference": "1", "extract": r"regex:(a|aa)+$"}, "a" * 60 + "b", "timeout"),
    ({"type": "json_schema", "schema": {"pattern": r"^(a|aa)+$"}}, '"' + "a" * 60 + 'b"', "timeout"),
]


@pytest.mark.parametrize(("grader", "text", "status"), GRADERS_FAULT)
def test_the_graders_side_failing_is_null_with_a_reason(grader, text, status):
    started = time.process_time()  # the limit is one of processor time; a busy machine's clock runs on
    found = cell(grader, text)
    assert (found.status, found.family, found.score) == (status, "infra", None)
    assert found.reason
    assert time.process_time() - started < 1.0


def test_text_is_never_evaluated():
    started = time.monotonic()
    assert cell({"type": "numeric", "reference": "1"}, "9^9^9^9").score == 0.0
    assert cell({"type": "exact", "reference": "2"}, "{{ 1 + 1 }}").score == 0.0
    assert time.monotonic() - started < 0.2


def test_every_verifier_is_tried_here():
    assert {grader["type"] for grader, *_ in HITS} == set(VERIFIERS)
