"""OpenAI's graders as rubrics: a grader is a criterion, `multi` a composite or, with models in it, a weighted sum of criteria."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, get_args

from service.domain.formats.linear import Linear, linear_in
from service.domain.formats.openai_templates import as_asked, as_template, as_theirs, is_output
from service.domain.formats.reading import Options
from service.domain.formats.rubric_base import Note, ReadRubric, fingerprint, key_of
from service.domain.formats.source import Source, fail
from service.domain.formula import Formula, FormulaError, parse_formula
from service.domain.grader import GRADER_CONFIGS, Metric

MODELS = ("score_model", "label_model")
VERIFIERS = ("string_check", "text_similarity", "python")
ALONE = (*MODELS, "python")
"""What no composite of ours takes: judges have critiques, and code runs in a sandbox."""


def read(document: Any, options: Options) -> ReadRubric:
    """A rubric from one grader, as it stands in a job of OpenAI's (or below `grader`, as it is validated there)."""
    if not isinstance(document, dict):
        fail("", "object_type", "a grader is an object with 'type'")
    outer = Source(document)
    grader = outer.inner("grader") if "grader" in document and "type" not in document else outer
    notes: list[Note] = []
    criteria = (
        _multi(grader, options, notes) if grader.row.get("type") == "multi" else [_single(grader, options, notes)]
    )
    taken: set[str] = set()
    keyed = [{"key": key_of(c.get("title", ""), taken, f"c{k + 1}"), **c} for k, c in enumerate(criteria)]
    items = {c["key"]: {"hash": fingerprint(c)} for c in keyed}
    origin = {"format": "openai_grader", "shape": "grader", "fields": {"grader": document}, "items": items}
    name = grader.row.get("name")
    return ReadRubric({"criteria": keyed, "origin": origin}, name if isinstance(name, str) else None, notes=notes)


def _single(source: Source, options: Options, notes: list[Note]) -> dict[str, Any]:
    kind = source.text("type")
    name = {"title": source.text("name")} if source.has("name") else {"title": kind.replace("_", " ")}
    if kind == "python":
        notes.append(
            Note(
                source.at("source"),
                "'item' is the prompt's row here: columns that ours do not have stand in item['metadata']",
            )
        )
    if kind in VERIFIERS:
        grader, negated = _verifier(source, kind)
        return {**name, "weight": 1, **({"polarity": "met_is_bad"} if negated else {}), "grader": grader}
    if kind not in MODELS:
        known = ", ".join((*VERIFIERS, *MODELS, "multi"))
        fail(source.at("type"), "unknown_type", f"'{kind}' is no type of grader; known: {known}")
    if options.judge is None:
        message = f"who judges instead of '{source.row.get('model')}'? Name a judge of yours: judge=jdg_…"
        fail(source.at("model"), "judge_needed", message)
    text = as_asked(source, notes)
    grader = {"type": "judge", "judge": options.judge}
    if kind == "label_model":
        return {**name, "text": text, "weight": 1, "scale": _labels(source), "grader": grader}
    low, high = _range(source)
    if (low, high) != (0, 1):
        text += f"\n\nWhere this asks for a number x from {low:g} to {high:g}, the verdict is (x - {low:g}) / {high - low:g}."
        notes.append(
            Note(source.at("range"), f"the judge is asked for a number in [0, 1]; {low:g} to {high:g} is brought there")
        )
    return {**name, "text": text, "weight": 1, "scale": {"type": "unit"}, "grader": grader}


def _verifier(source: Source, kind: str) -> tuple[dict[str, Any], bool]:
    """A verifier, and whether it hits what it should not."""
    if kind == "python":
        if "python" not in GRADER_CONFIGS:
            fail(source.at("type"), "unsupported", "graders of type python are not run by this version")
        return {"type": "python", "source": source.text("source")}, False
    output, reference = source.text("input"), source.text("reference")
    place = source.at("reference")
    operation = source.text("operation") if kind == "string_check" else ""
    if not is_output(output) and is_output(reference) and operation in ("eq", "ne"):
        output, reference, place = reference, output, source.at("input")
    if not is_output(output):
        message = "the input must be '{{ sample.output_text }}'; what takes a part of a sample is a python grader here"
        fail(source.at("input"), "unsupported_input", message)
    wanted = as_template(reference, place)
    if not wanted:
        fail(place, "empty", "the reference is empty, and nothing can be compared with it")
    if kind == "text_similarity":
        metric = source.text("evaluation_metric")
        if metric not in get_args(Metric):
            message = f"the metric '{metric}' is not offered here; take {', '.join(get_args(Metric))}"
            fail(source.at("evaluation_metric"), "unsupported_metric", message)
        return {"type": "similarity", "metric": metric, "reference": wanted}, False
    if operation in ("like", "ilike"):
        return {"type": "contains", "values": [wanted], "ignore_case": operation == "ilike"}, False
    if operation not in ("eq", "ne"):
        fail(source.at("operation"), "invalid_operation", f"'{operation}' is no operation; known: eq, ne, like, ilike")
    return {"type": "exact", "reference": wanted, "strip": False}, operation == "ne"


def _labels(source: Source) -> dict[str, Any]:
    labels, passing = source.items("labels"), source.items("passing_labels")
    for name, values in (("labels", labels), ("passing_labels", passing)):
        for position, value in enumerate(values):
            if not isinstance(value, str):
                fail(f"{source.at(name)}/{position}", "string_type", "a label is a text")
            if name == "passing_labels" and value not in labels:
                fail(f"{source.at(name)}/{position}", "unknown_label", f"'{value}' is none of the labels")
    if len(labels) < 2 or len(set(labels)) < len(labels):
        fail(source.at("labels"), "invalid_labels", "a judge chooses between at least two labels, each of them once")
    return {"type": "nominal", "levels": [{"label": label, "value": float(label in passing)} for label in labels]}


def _range(source: Source) -> tuple[float, float]:
    if not source.has("range"):
        return 0.0, 1.0
    values = source.items("range")
    if (
        len(values) != 2
        or any(isinstance(v, bool) or not isinstance(v, int | float) for v in values)
        or values[0] >= values[1]
    ):
        fail(source.at("range"), "invalid_range", "a range is two numbers, the smaller one first")
    return float(values[0]), float(values[1])


# --- multi ---


def _multi(source: Source, options: Options, notes: list[Note]) -> list[dict[str, Any]]:
    graders = _named(source)
    formula = _formula(source, graders)
    for name in sorted(graders.keys() - set(formula.names)):
        notes.append(Note(graders[name].place, f"the formula does not use '{name}', so it is left out"))
    used = {name: graders[name] for name in formula.names}
    if not used:
        fail(
            source.at("calculate_output"),
            "no_graders",
            "the formula uses no grader, so it says nothing of a completion",
        )
    if any(grader.row.get("type") == "multi" for grader in used.values()):
        fail(
            source.at("graders"), "cannot_nest", "a multi grader takes no other multi grader: one formula can hold both"
        )
    if any(grader.row.get("type") in ALONE for grader in used.values()):
        return _weighted(source, used, formula, options, notes)
    parts, negated = {}, []
    for name, grader in used.items():
        kind = grader.text("type")
        if kind not in VERIFIERS:
            fail(
                grader.at("type"),
                "unknown_type",
                f"'{kind}' is no type of grader; known: {', '.join(VERIFIERS + MODELS)}",
            )
        parts[name], inverted = _verifier(grader, kind)
        negated += [name] if inverted else []
    text = formula_with(source.text("calculate_output"), {name: f"(1 - {name})" for name in negated})
    title = source.text("name") if source.has("name") else "multi"
    return [{"title": title, "weight": 1, "grader": {"type": "composite", "formula": text, "graders": parts}}]


def _named(source: Source) -> dict[str, Source]:
    """A map of names, a list, or one grader alone: all three are in use."""
    given = source.value("graders")
    place = source.at("graders")
    if isinstance(given, dict) and not isinstance(given.get("type"), str):
        found = {name: (value, f"{place}/{name}") for name, value in given.items()}
    else:
        values = given if isinstance(given, list) else [given]
        places = [f"{place}/{k}" for k in range(len(values))] if isinstance(given, list) else [place]
        found = {}
        for value, at in zip(values, places, strict=True):
            name = value.get("name") if isinstance(value, dict) else None
            if not isinstance(name, str) or name in found:
                fail(f"{at}/name", "invalid_name", "every grader of a list needs a 'name' of its own, for the formula")
            found[name] = (value, at)
    for value, at in found.values():
        if not isinstance(value, dict):
            fail(at, "object_type", "a grader is an object with 'type'")
    return {name: Source(value, at) for name, (value, at) in found.items()}


def _formula(source: Source, graders: Mapping[str, Source]) -> Formula:
    try:
        formula = parse_formula(source.text("calculate_output"))
    except FormulaError as error:
        fail(source.at("calculate_output"), "formula_parse_error", str(error))
    for name in formula.names:
        if name not in graders:
            known = ", ".join(sorted(graders))
            fail(
                source.at("calculate_output"),
                "invalid_variable_error",
                f"the formula uses '{name}'; the graders are {known}",
            )
    return formula


def _weighted(
    source: Source, used: Mapping[str, Source], formula: Formula, options: Options, notes: list[Note]
) -> list[dict[str, Any]]:
    """Graders that models answer, each a criterion of its own, its weight the coefficient of its share of the sum."""
    scales = {n: _range(g) if g.row.get("type") == "score_model" else (0.0, 1.0) for n, g in used.items()}
    found = linear_in(formula, {name: Linear(low, {name: high - low}) for name, (low, high) in scales.items()})
    place = source.at("calculate_output")
    if found is None or abs(found.constant) > 1e-12 or any(value <= 0 for value in found.coefficients.values()):
        message = (
            "with models or python in it the formula must be a sum of graders times numbers above 0: these are criteria of "
            "their own here, a judge's score with its critique and confidence, code in its sandbox"
        )
        fail(place, "not_a_weighted_sum", message)
    whole = math.fsum(found.coefficients.values())
    if abs(whole - 1) > 1e-9:
        notes.append(Note(place, f"the reward is the formula's value divided by {whole:g}, so that it lies in [0, 1]"))
    single = {name: _single(grader, options, notes) for name, grader in used.items()}
    return [{**criterion, "title": name, "weight": found.coefficients[name]} for name, criterion in single.items()]


def formula_with(text: str, names: Mapping[str, str]) -> str:
    """A formula with other words in place of names."""
    for name, other in names.items():
        text = re.sub(rf"(?<![A-Za-z0-9_]){re.escape(name)}(?![A-Za-z0-9_])", other, text)
    return text


# --- and back ---


def write(content: Mapping[str, Any], origin: Mapping[str, Any] | None) -> dict[str, Any]:
    """The grader that was imported, or one written anew; `FormatError` for criteria that no grader of OpenAI's can be."""
    criteria = content["criteria"]
    if origin is not None and {k: v["hash"] for k, v in origin["items"].items()} == {
        c["key"]: fingerprint(c) for c in criteria
    }:
        return dict(origin["fields"]["grader"])
    graders = {criterion["key"].replace("-", "_").replace(".", "_"): _written(criterion) for criterion in criteria}
    if len(graders) == 1:
        return next(iter(graders.values()))
    if len(graders) < len(criteria) or any(not name[0].isalpha() for name in graders):
        fail(
            "",
            "not_writable",
            "in a formula keys begin with a letter, and differ in more than - and _; rename the criteria",
        )
    whole = math.fsum(float(criterion["weight"]) for criterion in criteria)
    terms = [f"{float(c['weight']) / whole!r} * {name}" for c, name in zip(criteria, graders, strict=True)]
    return {"type": "multi", "name": "rubric", "graders": graders, "calculate_output": " + ".join(terms)}


def _written(criterion: Mapping[str, Any]) -> dict[str, Any]:
    key, grader = criterion["key"], criterion["grader"]
    name = criterion.get("title") or key
    bad = criterion.get("polarity") == "met_is_bad"
    if (
        criterion.get("gate")
        or criterion.get("audit")
        or criterion.get("applies_to")
        or criterion.get("scope") == "step"
    ):
        fail(
            "",
            "not_writable",
            f"criterion '{key}' has a gate, conditions or steps, or is an audit; OpenAI's graders have none",
        )
    if grader["type"] == "composite" and not bad:
        parts = {
            part: _verified({"key": part, "grader": one}, part, one, False) for part, one in grader["graders"].items()
        }
        return {"type": "multi", "name": name, "graders": parts, "calculate_output": grader["formula"]}
    return _verified(criterion, name, grader, bad)


def _verified(criterion: Mapping[str, Any], name: str, grader: Mapping[str, Any], bad: bool) -> dict[str, Any]:
    kind = grader["type"]
    base = {"name": name, "input": "{{ sample.output_text }}"}
    if kind == "exact" and not grader.get("strip", True) and not grader.get("ignore_case"):
        operation = "ne" if bad else "eq"
        return {"type": "string_check", **base, "reference": as_theirs(grader["reference"]), "operation": operation}
    if kind == "contains" and len(grader["values"]) == 1 and not bad:
        operation = "ilike" if grader.get("ignore_case") else "like"
        return {"type": "string_check", **base, "reference": as_theirs(grader["values"][0]), "operation": operation}
    if kind == "similarity" and grader.get("threshold") is None:
        reference = as_theirs(grader["reference"])
        return {"type": "text_similarity", **base, "reference": reference, "evaluation_metric": grader["metric"]}
    if kind == "python":
        return {"type": "python", "name": name, "source": grader["source"]}
    why = {
        "exact": "it strips or folds case, and string_check does not (strip: false, ignore_case: false)",
        "judge": "a judge of this service is no model of OpenAI's, and the grader that it came from has changed since",
    }
    message = f"criterion '{criterion['key']}' ({kind}): {why.get(kind, 'no grader of OpenAI says this')}; export json or yaml"
    fail("", "not_writable", message)
