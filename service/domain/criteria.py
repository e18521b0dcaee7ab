"""The criteria of one prompt: those of the rubric that apply to it, and those that its own row brings along.

Everybody who grades asks here: the trainer, the grading worker, and what checks prompts before a job starts. It is decided once
per prompt, from its category and tags, before anything is graded; never per completion (grape.md §3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from service.domain.base import refuse
from service.domain.grader import JudgeGrader, templates_of
from service.domain.rubric import PROMPT_PREFIX, Criterion, RubricContent, refuse_dots, refuse_duplicates
from service.domain.scoring import CriterionWeight, GateRule
from service.domain.template import fill, needs

NO_VOTES: Mapping[str, int] = MappingProxyType({})


def criteria_of(
    content: RubricContent, prompt: Mapping[str, Any], prompt_criteria_weight: float = 1.0
) -> list[Criterion]:
    """What `prompt` is graded on, in the rubric's order and then the row's.

    `prompt` has `category`, `tags` and, where its row has some, `criteria`; these join as `prompt.<key>`, their weights times
    `prompt_criteria_weight`. What a judge is to look for may refer to the prompt (`{{ prompt.reference }}`): its text is given
    with the prompt's values in it, so that everybody who asks, or looks for what was asked, has the same words.
    """
    return [_with_values(criterion, prompt) for criterion in applying(content, prompt, prompt_criteria_weight)]


def applying(content: RubricContent, prompt: Mapping[str, Any], prompt_criteria_weight: float = 1.0) -> list[Criterion]:
    """The same as their authors wrote them: the words that all prompts have in common."""
    own = [
        criterion.model_copy(
            update={
                "key": f"{PROMPT_PREFIX}.{criterion.key}",
                "weight": criterion.effective_weight * prompt_criteria_weight,
            }
        )
        for criterion in map(Criterion.model_validate, prompt.get("criteria") or ())
    ]
    category, tags = prompt.get("category"), prompt.get("tags") or ()
    return [c for c in (*content.criteria, *own) if c.applies_to is None or c.applies_to.matches(category, tags)]


def _with_values(criterion: Criterion, prompt: Mapping[str, Any]) -> Criterion:
    if not isinstance(criterion.grader, JudgeGrader) or "{{" not in criterion.text:
        return criterion
    return criterion.model_copy(update={"text": fill(criterion.text, prompt)})


def needs_of(criterion: Criterion) -> list[str]:
    """What a prompt must have for this criterion, e.g. `prompt.reference`; for a prompt's own, only what is missing still counts."""
    texts = templates_of(criterion.grader)
    if isinstance(criterion.grader, JudgeGrader):
        texts.append(criterion.text)
    return sorted({name for text in texts for name in needs(text)})


def criterion_weights(criteria: Sequence[Criterion], votes: Mapping[str, int] = NO_VOTES) -> list[CriterionWeight]:
    """What aggregation needs to know of a prompt's criteria. `votes` has each judge's own number, for criteria that inherit it."""
    return [
        CriterionWeight(
            key=c.key,
            weight=c.effective_weight,
            judged=isinstance(c.grader, JudgeGrader),
            audit=c.audit,
            default_confidence=c.default_confidence,
            gate=GateRule(c.gate.threshold, c.gate.factor) if c.gate is not None else None,
            met_is_bad=c.polarity == "met_is_bad",
            step_pooling=c.step_pooling if c.scope == "step" else None,
            votes=(c.grader.votes or votes.get(c.grader.judge)) if isinstance(c.grader, JudgeGrader) else None,
            per_prompt=c.key.startswith("prompt."),
            tags=tuple(c.tags),
        )
        for c in criteria
    ]


def _as_in_a_rubric(value: Any) -> Any:
    """Rows' criteria in the form of a rubric's: a key from the position, and points below 0 as a bad thing's weight."""
    if not isinstance(value, list):
        return value
    return [_one(position, dict(item)) if isinstance(item, dict) else item for position, item in enumerate(value)]


def _one(position: int, item: dict[str, Any]) -> dict[str, Any]:
    if item.get("key") is None:
        item["key"] = str(position)
    name = "points" if "points" in item else "weight"
    if name == "points":
        if "weight" in item:
            refuse(((position, "points"), "one_of", "give either 'weight' or 'points'"))
        points = item.pop("points")
        if isinstance(points, bool) or not isinstance(points, int | float) or points == 0:
            refuse(((position, "points"), "invalid_points", "points are a number above or below 0"))
        item["weight"] = points
    weight = item.get("weight")
    if isinstance(weight, int | float) and not isinstance(weight, bool) and weight < 0:
        if item.get("polarity", "met_is_bad") != "met_is_bad":
            message = f"{name} below 0 mean that meeting the criterion is bad, and 'polarity' says that it is good"
            refuse(((position, "polarity"), "invalid_polarity", message))
        item.update(weight=-weight, polarity="met_is_bad")
    return item


def _usable(criteria: list[Criterion]) -> list[Criterion]:
    refuse_duplicates(criteria, place=())
    refuse_dots(criteria, place=())
    return criteria


PromptCriteria = Annotated[
    list[Criterion],
    Field(max_length=256),
    BeforeValidator(_as_in_a_rubric),
    AfterValidator(_usable),
]
"""The criteria of a prompt's row: as in a rubric, `key` optional, and `points` (HealthBench) in place of `weight`."""
