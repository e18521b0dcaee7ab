"""Rubrics for the linter's tests, and what it says of them."""

from service.domain.includes import flatten
from service.domain.lint import CODES, Subject, lint
from service.domain.rubric import AuthoredContent, RubricContent

REGEX = {"type": "regex", "pattern": "x"}
JUDGE = {"type": "judge", "judge": "jdg_0"}
TOLD = "names the capital of the country in question"


def judged(text=TOLD, key="a", **changes):
    return {"key": key, "weight": 1, "text": text, "grader": JUDGE, **changes}


def verified(pattern="x", key="v", **changes):
    return {"key": key, "weight": 1, "grader": {"type": "regex", "pattern": pattern}, **changes}


def findings(*criteria, included=(), facts=None, **rest):
    names = [
        {"as": f"m{k}", "rubric": "rub_0", "version": 1, "weight": weight} for k, (weight, _) in enumerate(included)
    ]
    authored = AuthoredContent.model_validate({"criteria": list(criteria), "includes": names, **rest})
    contents = [RubricContent.model_validate(content) for _, content in included]
    return lint(Subject(authored, flatten(authored, contents), contents, **(facts or {})))


def said(code, *criteria, **rest):
    """The pointers at which this code is found."""
    assert code in CODES
    found = findings(*criteria, **rest)
    assert {finding.code for finding in found} <= set(CODES)
    return [finding.pointer for finding in found if finding.code == code]
