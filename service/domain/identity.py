"""When a stored cell answers a criterion of another rubric version: when the same was asked.

A cell belongs to what its grader was given, not to what is made of it: weight, gate, audit, tags, applicability and default
confidence may change, and the cell stays. Whatever the grader read or did makes another cell when it changes: the key (a judge
answers under it), the grader with its fields, polarity, scale and its anchors, the steps; for a judge also the criterion's
title and text and the rubric's guidelines, in which even a comma may have decided a verdict. The judge's revision is no part
of it: a cell says by which revision it was made, and reusing it is the wish.
"""

from __future__ import annotations

from typing import Any

from service.domain.base import content_hash
from service.domain.rubric import Criterion, RubricContent

_MADE_BY = ("key", "grader", "polarity", "scale", "scope", "step_separator", "step_pooling")
_READ_BY_JUDGES = ("title", "text")


def cell_identity(criterion: Criterion, guidelines: str) -> str:
    """sha256 of everything that decides a cell but the completion, its prompt and the judge's revision."""
    body = criterion.model_dump(mode="json")
    asked = {name: body[name] for name in _MADE_BY}
    if _has_judge(body["grader"]):
        asked |= {name: body[name] for name in _READ_BY_JUDGES}
        asked["guidelines"] = guidelines
    return content_hash(asked)


def _has_judge(grader: Any) -> bool:
    """Whether a judge reads it; a composite may hold one."""
    if isinstance(grader, dict):
        return grader.get("type") == "judge" or any(_has_judge(value) for value in grader.values())
    return isinstance(grader, list) and any(_has_judge(value) for value in grader)


def identities(criteria: list[Criterion], content: RubricContent) -> dict[str, str]:
    """Criterion -> identity, for a prompt's criteria."""
    return {criterion.key: cell_identity(criterion, content.guidelines) for criterion in criteria}


def question_identity(criterion: Criterion) -> str:
    """sha256 of what a person is asked who scores this criterion: its words, its scale and which way is good.

    Neither the key nor the grader is in it: a label counts for every judge that is asked the same, in every version that asks it.
    Templates stand in it as they were written (`criteria.applying`), so that it is one question for all prompts.
    """
    body = criterion.model_dump(mode="json")
    return content_hash({name: body[name] for name in ("title", "text", "polarity", "scale", "scope")})
