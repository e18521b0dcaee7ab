"""Criteria as HealthBench and RaR write them, in rubrics and in prompts' rows: texts with points, titles with weights."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from service.domain.formats.reading import Options
from service.domain.formats.source import Fault, FormatError, Source, fail

POLARITIES = ("met_is_good", "met_is_bad")
PAPER_WEIGHTS = {"Essential": 1.0, "Important": 0.7, "Optional": 0.3, "Pitfall": 0.9}
"""RaR's weights of a category (arXiv 2507.17746)."""
_CATEGORY = re.compile(r"(Essential|Important|Optional|Pitfall) Criteria:\s*")
_GOOD_WORDS = ("avoids", "avoid", "avoiding", "refrains", "refrain")
"""First words of a pitfall that say that it is avoided: meeting it is good."""
_TWO_WAYS = re.compile(
    r"(does|do|did|should|must|is|are|has|have|will|can)\s?(not|n't)\b|n't\b|never\b|no\b|not\b|without\b", re.I
)
"""First words of a pitfall that may praise ("does not invent sources") as well as blame ("does not mention the dose")."""


def judged(judge: str | None, what: str) -> dict[str, str]:
    """The grader of criteria that come without one."""
    if judge is None:
        fail("", "judge_needed", f"{what} does not say who judges; name a judge of yours: judge=jdg_…")
    return {"type": "judge", "judge": judge}


def read_points(source: Source, name: str, options: Options) -> list[dict[str, Any]]:
    """HealthBench's criteria: points below 0 are the weight of something that is bad to meet."""
    grader = judged(options.judge, "HealthBench")
    found = []
    for item in objects(source, name):
        text, points = item.text("criterion"), item.number("points")
        if points == 0:
            fail(item.at("points"), "invalid_points", "points are a number above or below 0")
        polarity = {"polarity": "met_is_bad"} if points < 0 else {}
        tags = {"tags": item.items("tags")} if item.row.get("tags") else {}
        found.append({"text": text, "weight": abs(points), **polarity, **tags, "grader": grader})
    return found


def write_points(criterion: Mapping[str, Any]) -> dict[str, Any]:
    """A criterion as HealthBench writes it."""
    weight = sole_weight(criterion, "HealthBench")
    points = -weight if _bad(criterion) else weight
    return {"criterion": criterion["text"], "points": points, "tags": criterion.get("tags") or []}


def read_weighted(source: Source, name: str, options: Options) -> list[dict[str, Any]]:
    """RaR's criteria: |weight|, the category as a tag, and a polarity that somebody has decided."""
    grader = judged(options.judge, "RaR")
    found: list[dict[str, Any]] = []
    faults: list[Fault] = []
    for item in objects(source, name):
        description, weight = item.text("description"), item.number("weight")
        if weight == 0:
            fail(item.at("weight"), "invalid_weight", "a weight is a number above or below 0")
        match = _CATEGORY.match(description)
        category, text = (match.group(1), description[match.end() :]) if match else (None, description)
        if options.weights == "paper":
            if category is None:
                fail(
                    item.at("description"),
                    "no_category",
                    "without 'Essential Criteria:' or its like the paper has no weight",
                )
            weight = PAPER_WEIGHTS[category]
        try:
            polarity = _polarity(item, category, text, options)
        except FormatError as error:
            faults.extend(error.faults)
            continue
        title = {"title": item.text("title")} if item.has("title") else {}
        tags = {"tags": [category]} if category else {}
        found.append({**title, "text": text, "weight": abs(weight), "polarity": polarity, **tags, "grader": grader})
    if faults:
        raise FormatError(*faults)
    return found


def write_weighted(criterion: Mapping[str, Any]) -> dict[str, Any]:
    """A criterion as RaR writes it."""
    weight = sole_weight(criterion, "RaR")
    category = next((tag for tag in criterion.get("tags") or [] if tag in PAPER_WEIGHTS), None)
    prefix = f"{category} Criteria: " if category else ""
    return {
        "title": criterion.get("title") or criterion.get("key", ""),
        "description": f"{prefix}{criterion['text']}",
        "weight": -weight if _bad(criterion) else weight,
    }


def _polarity(item: Source, category: str | None, text: str, options: Options) -> str:
    """Whether meeting an item is good: as its field `polarity` says, else by its category, and for pitfalls as `options` say.

    Public data contradict each other: most pitfalls of RaR-Science say what is avoided (met is good), most of RaR-Medicine name the
    failure (met is bad), both with negative weights. So the sign alone decides nothing.
    """
    given = item.row.get("polarity")
    if given is not None:
        item.taken.add("polarity")
        if given not in POLARITIES:
            fail(item.at("polarity"), "invalid_polarity", "'polarity' is 'met_is_good' or 'met_is_bad'")
        return str(given)
    if category != "Pitfall" and item.row["weight"] > 0:
        return "met_is_good"
    if options.polarity is None:
        message = (
            "this is a pitfall, and nothing says whether meeting it is good ('avoids …') or bad (the failure itself); give "
            "polarity=from_prefix to go by its first words, or polarity=ask to decide each"
        )
        fail(item.at("polarity"), "polarity_needed", message)
    first = text.split(maxsplit=1)[0].strip(",.:;").lower() if text.split() else ""
    answer = 'write "polarity": "met_is_good" or "met_is_bad" into this item'
    if options.polarity == "ask":
        fail(item.at("polarity"), "undecided", f"is it good or bad to meet '{text[:120]}'? {answer}")
    if first not in _GOOD_WORDS and _TWO_WAYS.match(text):
        message = f"'{text[:120]}' may praise or blame, its first words do not tell; {answer}"
        fail(item.at("polarity"), "undecided", message)
    found = "met_is_good" if first in _GOOD_WORDS else "met_is_bad"
    options.decided[found] += 1
    return found


def objects(source: Source, name: str) -> list[Source]:
    """The objects of a list, each with its place."""
    values: Sequence[Any] = source.items(name)
    for position, value in enumerate(values):
        if not isinstance(value, dict):
            fail(f"{source.at(name)}/{position}", "object_type", "a criterion is an object")
    return [Source(value, f"{source.at(name)}/{position}") for position, value in enumerate(values)]


def sole_weight(criterion: Mapping[str, Any], what: str) -> float:
    """The weight of a criterion that is a text, met or not; `FormatError` for one that is more than that."""
    key = criterion.get("key", "")
    if (criterion.get("scale") or {}).get("type", "boolean") != "boolean" or not (criterion.get("text") or "").strip():
        fail("", "not_writable", f"criterion '{key}' is no text that is met or not, and {what} knows nothing else")
    lost = [name for name in ("gate", "applies_to", "audit") if criterion.get(name)]
    lost += ["scope"] if criterion.get("scope") == "step" else []
    if lost:
        fail("", "not_writable", f"criterion '{key}' has '{lost[0]}', which {what} cannot say; export json or yaml")
    return float(criterion["weight"])


def _bad(criterion: Mapping[str, Any]) -> bool:
    return criterion.get("polarity") == "met_is_bad"
