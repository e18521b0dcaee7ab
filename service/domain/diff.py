"""What has changed between two versions of a rubric, in a form that a person can read and a program can use.

What is compared is the flat content, which completions are graded by; the includes that it came from are told beside it.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import JsonValue

from service.domain.base import Value, canonical_json, escape
from service.domain.rubric import AuthoredContent, Criterion, Include, RubricContent

CONTEXT_LINES = 2


class FieldChange(Value):
    """One field: its JSON pointer below the thing that has it, and its value before and after (null: absent)."""

    pointer: str
    before: JsonValue
    after: JsonValue


class CriterionChange(Value):
    """A criterion that kept its key."""

    key: str
    fields: list[FieldChange]


class Rename(Value):
    """The same criterion under another key."""

    before: str
    after: str


class ShareChange(Value):
    """A criterion's weight and its share of Σw before and after; null where it does not exist or is an audit criterion."""

    key: str
    weight_before: float | None
    weight_after: float | None
    share_before: float | None
    share_after: float | None


class CriteriaDiff(Value):
    """The criteria. `reordered`: the same ones in another order, which changes the hash and no number."""

    added: list[Criterion]
    removed: list[Criterion]
    renamed: list[Rename]
    changed: list[CriterionChange]
    reordered: bool


class RubricDiff(Value):
    """Everything that has changed; `guidelines` and `system_prompt` as unified lines. `text` tells it all."""

    equal: bool
    criteria: CriteriaDiff
    guidelines: list[str]
    system_prompt: list[str]
    aggregation: list[FieldChange]
    includes: list[FieldChange]
    shares: list[ShareChange]
    text: str


def diff(
    before: RubricContent,
    after: RubricContent,
    includes_before: Sequence[Include] = (),
    includes_after: Sequence[Include] = (),
) -> RubricDiff:
    """From `before` to `after`, with the includes that each came from."""
    criteria = _criteria(before.criteria, after.criteria)
    found: dict[str, Any] = {
        "equal": before.hash == after.hash,
        "criteria": criteria,
        "guidelines": _unified(before.guidelines, after.guidelines),
        "system_prompt": _unified(before.system_prompt, after.system_prompt),
        "aggregation": list(_fields(before.aggregation.model_dump(), after.aggregation.model_dump())),
        "includes": list(_fields(_by_name(includes_before), _by_name(includes_after))),
        "shares": _shares(before.criteria, after.criteria, criteria.renamed),
    }
    return RubricDiff(**found, text=_text(**found))


def includes_of(content: dict[str, Any]) -> list[Include]:
    """The includes of a version as it was authored."""
    return AuthoredContent.model_validate(content).includes


def _by_name(includes: Sequence[Include]) -> dict[str, Any]:
    return {i.as_: {"rubric": i.rubric, "version": i.version, "weight": i.weight} for i in includes}


def _criteria(before: Sequence[Criterion], after: Sequence[Criterion]) -> CriteriaDiff:
    old, new = {c.key: c for c in before}, {c.key: c for c in after}
    removed = {key: c for key, c in old.items() if key not in new}
    added = {key: c for key, c in new.items() if key not in old}
    renamed = []
    for key, criterion in list(removed.items()):
        match = next((k for k, other in added.items() if _nameless(other) == _nameless(criterion)), None)
        if match is not None:
            renamed.append(Rename(before=key, after=match))
            del removed[key], added[match]
    changed = [
        CriterionChange(key=key, fields=fields)
        for key in old.keys() & new.keys()
        if (fields := list(_fields(old[key].model_dump(mode="json"), new[key].model_dump(mode="json"))))
    ]
    kept = [key for key in old if key in new]
    return CriteriaDiff(
        added=list(added.values()),
        removed=list(removed.values()),
        renamed=renamed,
        changed=sorted(changed, key=lambda change: list(new).index(change.key)),
        reordered=kept != [key for key in new if key in old],
    )


def _nameless(criterion: Criterion) -> str:
    return canonical_json(criterion.model_dump(mode="json", exclude={"key"}))


def _fields(before: Any, after: Any, pointer: str = "") -> Iterator[FieldChange]:
    """The innermost fields that differ; what has changed its `type` has changed as a whole."""
    if before == after:
        return
    whole = not (isinstance(before, dict) and isinstance(after, dict)) or before.get("type") != after.get("type")
    if not whole:
        for name in dict.fromkeys([*before, *after]):
            yield from _fields(before.get(name), after.get(name), f"{pointer}/{escape(name)}")
        return
    alike = isinstance(before, list) and isinstance(after, list) and len(before) == len(after)
    if alike and all(isinstance(item, dict) for item in [*before, *after]):
        for position, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _fields(old, new, f"{pointer}/{position}")
        return
    yield FieldChange(pointer=pointer, before=before, after=after)


def _unified(before: str, after: str) -> list[str]:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=CONTEXT_LINES)
    return list(lines)[2:]  # without the two names of files


def shares(criteria: Sequence[Criterion]) -> dict[str, float]:
    """Each criterion's share of Σw; audit criteria have none."""
    counted = {c.key: c.effective_weight for c in criteria if not c.audit}
    whole = math.fsum(counted.values())
    return {key: weight / whole for key, weight in counted.items()}


def _shares(before: Sequence[Criterion], after: Sequence[Criterion], renamed: Sequence[Rename]) -> list[ShareChange]:
    old_shares, new_shares = shares(before), shares(after)
    old_weights, new_weights = ({c.key: c.weight for c in side if not c.audit} for side in (before, after))
    earlier = {rename.after: rename.before for rename in renamed}
    keys = [*new_shares, *(key for key in old_shares if key not in new_shares and key not in earlier.values())]
    return [
        ShareChange(
            key=key,
            weight_before=old_weights.get(earlier.get(key, key)),
            weight_after=new_weights.get(key),
            share_before=old_shares.get(earlier.get(key, key)),
            share_after=new_shares.get(key),
        )
        for key in keys
    ]


# --- in words ---


def _text(
    *,
    equal: bool,
    criteria: CriteriaDiff,
    guidelines: list[str],
    system_prompt: list[str],
    aggregation: list[FieldChange],
    includes: list[FieldChange],
    shares: list[ShareChange],
) -> str:
    if equal and not includes:
        return "no difference"
    lines: list[str] = []
    lines += [f"+ criterion {_summary(c)}" for c in criteria.added]
    lines += [f"- criterion {_summary(c)}" for c in criteria.removed]
    lines += [f"~ criterion '{rename.before}' is now '{rename.after}'" for rename in criteria.renamed]
    for change in criteria.changed:
        lines += [f"~ criterion '{change.key}'", *_field_lines(change.fields)]
    if criteria.reordered:
        lines.append("~ criteria stand in another order")
    for name, unified in (("guidelines", guidelines), ("system prompt", system_prompt)):
        if unified:
            lines += [f"~ {name}", *(f"    {line}" for line in unified)]
    for name, fields in (("aggregation", aggregation), ("includes", includes)):
        if fields:
            lines += [f"~ {name}", *_field_lines(fields)]
    moved = [s for s in shares if _percent(s.share_before) != _percent(s.share_after)]
    if moved:
        width = max(len(s.key) for s in moved)
        lines.append("share of Σw")
        lines += [f"    {s.key:<{width}}  {_percent(s.share_before):>7} → {_percent(s.share_after):>7}" for s in moved]
    return "\n".join(lines)


def _summary(criterion: Criterion) -> str:
    what = "audit, " if criterion.audit else f"weight {criterion.effective_weight:g}, "
    said = f": {criterion.text or criterion.title}" if criterion.text or criterion.title else ""
    return f"'{criterion.key}' ({what}{criterion.grader.type}){said}"


def _field_lines(fields: Sequence[FieldChange]) -> Iterator[str]:
    for change in fields:
        name = change.pointer.removeprefix("/").replace("/", ".") or "value"
        before, after = _shown(change.before), _shown(change.after)
        if len(before) + len(after) <= 60 and "\n" not in before + after:
            yield f"    {name}: {before} → {after}"
            continue
        yield f"    {name}:"
        yield from (f"      - {line}" for line in before.splitlines())
        yield from (f"      + {line}" for line in after.splitlines())


def _shown(value: JsonValue) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f} %"
