"""Whom criteria are for: conditions that no prompt meets, and prompts that no criterion is for."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from service.domain.base import nearest
from service.domain.lint.finding import Finding, Subject


def rules(subject: Subject) -> Iterator[Finding]:
    """What `applies_to` gives reason to say."""
    for place, criterion in subject.own():
        if criterion.applies_to is None:
            continue
        categories, tags = criterion.applies_to.categories, criterion.applies_to.tags
        if categories and subject.category is not None and subject.category not in categories:
            message = (
                f"the rubric is for '{subject.category}' and '{criterion.key}' for {_listed(categories)}: in jobs that give each "
                "category its rubric it never applies"
            )
            yield _finding("never_applies", "warning", f"{place}/applies_to/categories", message)
        for name, values, known in (("categories", categories, subject.categories), ("tags", tags, subject.tags)):
            yield from _unknown(f"{place}/applies_to/{name}", name, values or [], known)
    counted = [criterion for _, criterion in subject.everything() if not criterion.audit]
    if all(criterion.applies_to is not None for criterion in counted):
        message = "every criterion that counts has an 'applies_to': a job fails on a prompt that meets none; add one for all prompts"
        yield _finding("nothing_for_other_prompts", "info", "/criteria", message)


def _unknown(place: str, name: str, values: list[str], known: AbstractSet[str] | None) -> Iterator[Finding]:
    """Values that no prompt of the project has."""
    if known is None:
        return
    for position, value in enumerate(values):
        if value not in known:
            what = "category" if name == "categories" else "tag"
            hint = nearest(value, known) if len(known) <= 1000 else ""
            hint = hint if "did you mean" in hint else ""
            message = f"no prompt of this project has the {what} '{value}'{hint}"
            yield _finding("unused_condition", "info", f"{place}/{position}", message)


def _listed(values: list[str]) -> str:
    return ", ".join(f"'{value}'" for value in values)


def _finding(code: str, severity: str, pointer: str, message: str) -> Finding:
    return Finding.model_validate({"code": code, "severity": severity, "pointer": pointer, "message": message})
