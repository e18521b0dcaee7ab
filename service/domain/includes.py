"""Includes: rubrics as modules of other rubrics, flattened into one list of criteria (grape.md §3).

An included version is pinned and flat itself, so flattening is one level deep however long the chain is: keys become
`<as>.<key>`, weights multiply, guidelines follow each other, and gates act on the whole reward because the flat rubric has
only one. Aggregation and system prompt are the outer rubric's: a module of criteria does not decide how rewards are made or
how completions are sampled.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError

from service.domain.base import refuse
from service.domain.rubric import MAX_CRITERIA, MAX_DEPTH, AuthoredContent, Criterion, Include, RubricContent


def flatten(authored: AuthoredContent, included: Sequence[RubricContent]) -> RubricContent:
    """What `authored` resolves to, given the flat content of each of its includes, in their order.

    Own criteria come first, then those of each include. Raises `ValidationError` with the place in `authored`.
    """
    criteria = list(authored.criteria)
    guidelines = [authored.guidelines]
    for position, (include, content) in enumerate(zip(authored.includes, included, strict=True)):
        criteria.extend(_member(position, include, criterion) for criterion in content.criteria)
        guidelines.append(content.guidelines)
    if len(criteria) > MAX_CRITERIA:
        message = f"the rubric and its includes have {len(criteria)} criteria; {MAX_CRITERIA} is the most"
        refuse((("includes",), "too_long", message))
    if all(criterion.audit for criterion in criteria):
        refuse((("criteria",), "no_criteria", "every criterion is an audit criterion, so there is nothing to reward"))
    return RubricContent(
        guidelines="\n\n".join(part.strip() for part in guidelines if part.strip())
        if authored.includes
        else authored.guidelines,
        system_prompt=authored.system_prompt,
        criteria=criteria,
        aggregation=authored.aggregation,
    )


def _member(position: int, include: Include, criterion: Criterion) -> Criterion:
    """One included criterion under its flat key and weight."""
    key = f"{include.as_}.{criterion.key}"
    if key.count(".") > MAX_DEPTH:
        message = f"'{key}' lies deeper than {MAX_DEPTH} includes; include the inner rubric directly"
        refuse((("includes", position, "rubric"), "too_deep", message))
    weight = include.weight * criterion.effective_weight
    try:
        return Criterion.model_validate({**criterion.model_dump(exclude_unset=True), "key": key, "weight": weight})
    except ValidationError:
        message = f"the weight of '{key}' would be {weight:g}; weights are above 0 and at most 1e9"
        refuse((("includes", position, "weight"), "invalid_weight", message))


def pinned(authored: AuthoredContent, versions: Sequence[int]) -> AuthoredContent:
    """The same with the number of each include's version in place of an alias."""
    includes = [
        include.model_copy(update={"version": number})
        for include, number in zip(authored.includes, versions, strict=True)
    ]
    return authored.model_copy(update={"includes": includes})
