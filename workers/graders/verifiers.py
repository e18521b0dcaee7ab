"""Verifiers: plain checks of a completion's text. What the text does wrong scores 0; what the grader's side does wrong is null.

Each verifier answers whether the completion hits, or that it could not even be read (no number, no JSON), which is bad under
either polarity (grape.md §3), or how well it does, as a number in [0, 1].
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jsonschema
import regex
from jsonschema.validators import extend
from jsonschema_specifications import REGISTRY
from referencing.exceptions import Unresolvable

from service.domain.base import canonical_json
from service.domain.grade import Cell
from service.domain.grader import (
    CompositeGrader,
    ContainsGrader,
    ExactGrader,
    JsonSchemaGrader,
    NumericGrader,
    RegexGrader,
    RewardModelGrader,
    SimilarityGrader,
    reward_models_of,
)
from service.domain.rubric import Criterion
from service.domain.template import TemplateError, render
from workers.graders.composite import NoScore, combine, shown
from workers.graders.models import NO_SCORES, GraderFault, ModelScores, ScoresOfText
from workers.graders.similarity import ReferenceTooShort, similarity
from workers.graders.steps import CannotCut, cut, grade_steps

REGEX_LIMIT_S = 0.5
MAX_DIGITS = 400
_NUMBER = regex.compile(
    r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?|(?<![\w.])[-+]?\.\d+(?:[eE][-+]?\d+)?"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """What a verifier found: a hit or not, a number in [0, 1] (`value`), or neither if the text could not be read."""

    hit: bool | None = None
    reason: str | None = None
    value: float | None = None

    def score(self, polarity: str = "met_is_good") -> float:
        """The score in [0, 1], 1 is good: polarity inverts a hit, never a number, and what could not be read is 0."""
        if self.value is not None:
            return self.value
        return 0.0 if self.hit is None else float(self.hit != (polarity == "met_is_bad"))


def verify(criterion: Criterion, prompt: Mapping[str, Any], text: str, scores: ModelScores = NO_SCORES) -> Cell:
    """The cell of a verifier's, a reward model's or a composite's criterion; confidence 1.

    On a step criterion each step is verified as if it stood alone; a reward model reads the text up to the step's end. `scores`
    are those of the texts that `texts_to_score` names.
    """
    if criterion.scope == "step":
        return grade_steps(criterion, text, lambda step: _verify(criterion, prompt, step.text, step.so_far, scores))
    return _verify(criterion, prompt, text, text, scores)


def texts_to_score(criterion: Criterion, text: str) -> list[str]:
    """What a reward model reads of a completion: the whole, or on a step criterion what stands up to each step's end."""
    if criterion.scope != "step":
        return [text]
    try:
        return [step.so_far for step in cut(criterion, text)]
    except CannotCut:  # `verify` says why
        return []


def _verify(criterion: Criterion, prompt: Mapping[str, Any], text: str, so_far: str, scores: ModelScores) -> Cell:
    common: dict[str, Any] = {
        "criterion": criterion.key,
        "grader": criterion.grader.type,
        "audit": criterion.audit,
    }
    try:
        mine = {model: scores[model][so_far] for model in reward_models_of(criterion.grader)}
        finding = find(criterion.grader, prompt, text, mine)
    except GraderFault as fault:
        return Cell(status=fault.status, reason=fault.reason, **common)
    except TemplateError as error:
        return Cell(status="infra_error", reason=str(error), **common)
    return Cell(
        status="ok",
        score=finding.score(criterion.polarity),
        confidence=1.0,
        confidence_source="reward_model" if isinstance(criterion.grader, RewardModelGrader) else "verifier",
        reason=finding.reason,
        **common,
    )


def find(grader: Any, prompt: Mapping[str, Any], text: str, scores: ScoresOfText) -> Finding:
    """What a grader other than a judge finds. Raises `GraderFault`, or `TemplateError` for what the prompt does not have."""
    if isinstance(grader, RewardModelGrader):
        return scored(grader, scores)
    if isinstance(grader, CompositeGrader):
        return composed(grader, prompt, text, scores)
    return VERIFIERS[grader.type](grader, prompt, text)


def scored(grader: RewardModelGrader, scores: ScoresOfText) -> Finding:
    """The reward model's score, which whoever has the model has computed for all texts of a group at once."""
    score = scores[grader.model]
    if isinstance(score, GraderFault):
        raise GraderFault(score.status, score.reason)
    return Finding(value=score)


def composed(grader: CompositeGrader, prompt: Mapping[str, Any], text: str, scores: ScoresOfText) -> Finding:
    """The formula's value, with the scores that went into it as the reason."""
    parts: dict[str, float] = {}
    for name in sorted(grader.graders):
        try:
            parts[name] = find(grader.graders[name], prompt, text, scores).score()
        except GraderFault as fault:
            raise GraderFault(fault.status, f"'{name}': {fault.reason}") from None
        except TemplateError as error:
            raise GraderFault("infra_error", f"'{name}': {error}") from None
    try:
        return Finding(value=combine(grader.formula, parts), reason=shown(parts))
    except NoScore as error:
        raise GraderFault("invalid_score", str(error)) from None


def _exact(grader: ExactGrader, prompt: Mapping[str, Any], text: str) -> Finding:
    wanted = render(grader.reference, prompt, text)
    if grader.strip:
        wanted, text = wanted.strip(), text.strip()
    if grader.ignore_case:
        wanted, text = wanted.casefold(), text.casefold()
    return Finding(text == wanted)


def _contains(grader: ContainsGrader, prompt: Mapping[str, Any], text: str) -> Finding:
    values = [render(value, prompt, text) for value in grader.values]
    if grader.ignore_case:
        values, text = [value.casefold() for value in values], text.casefold()
    found = [value in text for value in values]
    return Finding(all(found) if grader.mode == "all" else any(found))


def _regex(grader: RegexGrader, prompt: Mapping[str, Any], text: str) -> Finding:
    return Finding((_search(grader.pattern, text) is not None) == grader.must_match)


def _search(pattern: str, text: str) -> Any:
    try:
        return _compiled(pattern).search(text, timeout=REGEX_LIMIT_S)
    except TimeoutError:
        raise GraderFault(
            "timeout", f"the regular expression took more than {REGEX_LIMIT_S} s on this text; make it simpler"
        ) from None


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Any:
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise GraderFault("infra_error", f"the regular expression does not compile: {error}") from None


def _numeric(grader: NumericGrader, prompt: Mapping[str, Any], text: str) -> Finding:
    reference = render(grader.reference, prompt, text).strip()
    wanted = _number(reference)
    if wanted is None:
        raise GraderFault("infra_error", f"the reference '{reference[:80]}' is not a number")
    if grader.extract == "last_number":
        found = _NUMBER.findall(text, timeout=REGEX_LIMIT_S)
        raw = found[-1] if found else None
    else:
        match = _search(grader.extract.removeprefix("regex:"), text)
        raw = None if match is None else match.group(1) if match.re.groups else match.group(0)
    number = _number(raw) if raw is not None else None
    if number is None:
        return Finding(None, "no number could be read from the completion")
    tolerance = max(grader.abs_tol, grader.rel_tol * abs(wanted))
    return Finding(number == wanted or abs(number - wanted) <= tolerance)


def _number(raw: str) -> int | float | None:
    """An int where the text is one (exact at any size up to 400 digits), else a finite float."""
    cleaned = raw.strip().replace(",", "")
    if len(cleaned) > MAX_DIGITS:
        return None
    try:
        return int(cleaned)
    except ValueError:
        pass
    try:
        value = float(cleaned)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _json_schema(grader: JsonSchemaGrader, prompt: Mapping[str, Any], text: str) -> Finding:
    try:
        value = _parse(text) if grader.extract == "whole" else _first_object(text)
    except (ValueError, RecursionError):
        return Finding(None, "no JSON could be read from the completion")
    try:
        return Finding(bool(_validator(canonical_json(grader.schema_)).is_valid(value)))
    except Unresolvable as error:
        raise GraderFault("infra_error", f"the schema refers to what is not in it: {error}") from None
    except RecursionError:
        return Finding(None, "the JSON is nested too deeply")
    except OverflowError:
        return Finding(None, "the JSON holds a number that is out of range")


def _similarity(grader: SimilarityGrader, prompt: Mapping[str, Any], text: str) -> Finding:
    try:
        value = similarity(grader.metric, text, render(grader.reference, prompt, text))
    except ReferenceTooShort as error:
        raise GraderFault("infra_error", str(error)) from None
    if grader.threshold is None:
        return Finding(value=value)
    return Finding(value >= grader.threshold, f"{grader.metric} {value:.6g}")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"JSON has no {name}")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
MAX_STARTS = 1000


def _parse(text: str) -> Any:
    value, end = _DECODER.raw_decode(text.strip())
    if end != len(text.strip()):
        raise ValueError("text follows the JSON")
    return value


def _first_object(text: str) -> Any:
    start = -1
    for _ in range(MAX_STARTS):
        start = text.find("{", start + 1)
        if start < 0:
            break
        try:
            return _DECODER.raw_decode(text, start)[0]
        except ValueError:
            continue
    raise ValueError("no object")


def _safe_pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Any:
    if isinstance(instance, str) and _search(pattern, instance) is None:
        yield jsonschema.ValidationError(f"{instance!r} does not match {pattern!r}")


def _safe_pattern_properties(validator: Any, patterns: Any, instance: Any, _schema: Any) -> Any:
    if not isinstance(instance, dict):
        return
    for pattern, subschema in patterns.items():
        for name, value in instance.items():
            if _search(pattern, name) is not None:
                yield from validator.descend(value, subschema, path=name, schema_path=pattern)


# A schema's patterns get the same time limit as regex criteria: the policy writes the text that they run on.
_Validator: Any = extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator, {"pattern": _safe_pattern, "patternProperties": _safe_pattern_properties}
)


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    # With a registry of its own, a validator fetches nothing: jsonschema's default one opens any URL that a schema names.
    return _Validator(json.loads(schema), registry=REGISTRY)


VERIFIERS: dict[str, Callable[[Any, Mapping[str, Any], str], Finding]] = {
    "exact": _exact,
    "contains": _contains,
    "regex": _regex,
    "numeric": _numeric,
    "json_schema": _json_schema,
    "similarity": _similarity,
}
