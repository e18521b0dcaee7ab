"""Gradings over HTTP, and their numbers checked from their cells."""

from service.domain.scoring import ScoredCell, score_group
from tests.support.stack import wait_for

SHORT = {"key": "short", "weight": 1, "grader": {"type": "regex", "pattern": "^.{0,5}$"}}
HAS = {"key": "has", "weight": 2, "grader": {"type": "contains", "values": ["{{ prompt.reference }}"]}}
AUDIT = {"key": "one", "audit": True, "grader": {"type": "exact", "reference": "{{ prompt.reference }}"}}
ENDS = ("succeeded", "failed", "cancelled")


def ended(api, grading_id, timeout_s=60, expected="succeeded"):
    def look():
        grading = api.get(f"/v1/gradings/{grading_id}")
        return grading["status"] in ENDS and grading

    grading = wait_for(look, timeout_s, f"the end of {grading_id}")
    assert grading["status"] == expected, grading
    return grading


def results(api, grading_id, **query):
    return list(api.pages(f"/v1/gradings/{grading_id}/completions", **{"limit": 7, **query}))


def grade(api, body, **more):
    grading = api.post("/v1/gradings", body)
    assert grading["status"] == "queued"
    return ended(api, grading["id"], **more), results(api, grading["id"])


def cell(row, key):
    (found,) = [c for c in row["cells"] if c["criterion"] == key]
    return found


def check_numbers(rows, weights, options=None):
    """Anyone can compute every reward, advantage and part of a group from its cells."""
    groups = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    for members in groups.values():
        assert [m["index"] for m in members] == list(range(len(members)))
        cells = [
            {c["criterion"]: ScoredCell(c["score"], c["confidence"]) for c in m["cells"] if c["score"] is not None}
            for m in members
        ]
        again = score_group(weights, cells, options)
        for row, numbers in zip(members, again.completions, strict=True):
            for name in (
                "reward",
                "plain_reward",
                "unscaled_advantage",
                "scale_factor",
                "advantage",
                "parts",
                "coverage",
                "member",
            ):
                assert row[name] == getattr(numbers, name), name
            assert row["signal"] == again.signal
    return groups
