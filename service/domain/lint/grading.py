"""How criteria are graded: gates on a single vote, confidences that nobody states, scales, patterns that hang."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from service.domain.grader import JsonSchemaGrader, JudgeGrader, NumericGrader, RegexGrader
from service.domain.lint.ambiguity import is_exponential
from service.domain.lint.finding import Finding, Subject, anchored
from service.domain.rubric import DEFAULT_AGGREGATION, Criterion, LevelScale

GATE_VOTES = 3


def rules(subject: Subject) -> Iterator[Finding]:
    """What the graders, gates and scales of the rubric's own criteria give reason to say."""
    weighting = subject.authored.aggregation.over(DEFAULT_AGGREGATION).weighting
    for place, criterion in subject.own():
        if isinstance(criterion.grader, JudgeGrader):
            yield from _gate(subject, place, criterion, criterion.grader)
            if weighting == "confidence" and not criterion.audit:
                yield from _confidence(subject, place, criterion, criterion.grader)
            yield from _scale(place, criterion)
        for below, pattern in _patterns(criterion.grader):
            if is_exponential(pattern):
                message = (
                    "on some texts this pattern takes exponential time (a repetition inside a repetition, or overlapping alternatives): "
                    "such a cell is a null with the status 'timeout'; make what is repeated begin or end with something of its own"
                )
                yield Finding(code="slow_regex", severity="warning", pointer=f"{place}/grader{below}", message=message)
    for position, include in enumerate(subject.authored.includes):
        if subject.included and subject.included[position].system_prompt.strip():
            message = f"the system prompt of the module '{include.as_}' is not used: only this rubric's own is; copy it if it is meant"
            pointer = f"/includes/{position}"
            yield Finding(code="included_system_prompt", severity="info", pointer=pointer, message=message)


def _gate(subject: Subject, place: str, criterion: Criterion, grader: JudgeGrader) -> Iterator[Finding]:
    votes = subject.votes(grader)
    if criterion.gate is None or votes >= GATE_VOTES:
        return
    message = (
        f"a gate changes the whole reward, and this one hangs on {votes} vote{'s' * (votes != 1)} of a judge; give the criterion "
        f"'votes' of {GATE_VOTES} or more, or let a verifier decide"
    )
    yield Finding(code="gate_with_few_votes", severity="warning", pointer=f"{place}/gate", message=message)


def _confidence(subject: Subject, place: str, criterion: Criterion, grader: JudgeGrader) -> Iterator[Finding]:
    if criterion.default_confidence is not None or subject.confidence(grader) != "none":
        return
    message = (
        "weights go by confidence here, and this criterion has none (it asks its judge for no confidence): it takes its neighbours' "
        "mean; choose another source of confidence, give it a default_confidence, or set aggregation.weighting to 'uniform'"
    )
    yield Finding(code="judge_without_confidence", severity="warning", pointer=f"{place}/grader", message=message)


def _scale(place: str, criterion: Criterion) -> Iterator[Finding]:
    scale = criterion.scale
    if not isinstance(scale, LevelScale):
        return
    values = [level.value for level in scale.levels]
    if len(set(values)) == 1:
        message = "all levels have the same value, so the verdict changes nothing; give better levels a higher value"
        yield _levels(place, "flat_scale", "warning", message)
        return
    rising = values == sorted(values) or values == sorted(values, reverse=True)
    if scale.type == "ordinal":
        if not anchored(criterion):
            message = (
                "levels without an anchor are told apart by their names alone; say for each what an answer looks like"
            )
            yield _levels(place, "unanchored_levels", "warning", message)
        if not rising:
            message = (
                "the values go up and down along an ordinal scale; put the levels in order, or make the scale nominal"
            )
            yield _levels(place, "disordered_levels", "warning", message)
    elif rising and len(set(values)) == len(values) > 2:
        message = "the values of this nominal scale rise from level to level: if the levels are an order, say 'ordinal'"
        yield _levels(place, "ordered_nominal_scale", "info", message)


def _levels(place: str, code: str, severity: str, message: str) -> Finding:
    body = {"code": code, "severity": severity, "pointer": f"{place}/scale/levels", "message": message}
    return Finding.model_validate(body)


def _patterns(grader: Any) -> Iterator[tuple[str, str]]:
    """Every regular expression that a grader runs on what the policy writes, with its pointer below the grader."""
    if isinstance(grader, RegexGrader):
        yield "/pattern", grader.pattern
    elif isinstance(grader, NumericGrader) and grader.extract != "last_number":
        yield "/extract", grader.extract.removeprefix("regex:")
    elif isinstance(grader, JsonSchemaGrader):
        yield from _schema_patterns(grader.schema_, "/schema")
    for name, part in sorted(getattr(grader, "graders", {}).items()):
        yield from ((f"/graders/{name}{below}", pattern) for below, pattern in _patterns(part))


def _schema_patterns(schema: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(schema, list):
        for position, item in enumerate(schema):
            yield from _schema_patterns(item, f"{place}/{position}")
    if not isinstance(schema, dict):
        return
    for name, value in schema.items():
        if name == "pattern" and isinstance(value, str):
            yield f"{place}/pattern", value
        elif name not in ("const", "enum", "default", "examples"):
            yield from _schema_patterns(value, f"{place}/{name}")
