"""Criteria that say the same twice: what is counted double, and audits that watch nothing new."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations

from service.domain.base import canonical_json
from service.domain.grader import JudgeGrader
from service.domain.lint.finding import Finding, Subject
from service.domain.rubric import Criterion

_STOP = frozenset(
    "a an the is are be it its this that of to in on at for with and or as by from has have does do should must".split()
)
_SUBJECT = frozenset("answer response completion output model assistant reply text".split())
LEAST_WORDS = 6
"""Texts shorter than this are alike only if they say exactly the same."""


def rules(subject: Subject) -> Iterator[Finding]:
    """Pairs of criteria, over all modules, that mean the same."""
    for (_, first), (place, second) in combinations(subject.everything(), 2):
        if not _same_prompts(first, second) or not alike(first, second):
            continue
        if first.audit != second.audit:
            trained, audit = (second, first) if first.audit else (first, second)
            message = (
                f"the audit criterion '{audit.key}' repeats '{trained.key}', which is trained on: it rises with the reward, however "
                "that is earned; audit by another judge, another wording or another measure"
            )
            yield Finding(code="audit_repeats_trained", severity="warning", pointer=place, message=message)
        else:
            message = f"'{second.key}' says what '{first.key}' says, so it counts twice; drop one, or give the other its weight"
            yield Finding(code="duplicate_criteria", severity="warning", pointer=place, message=message)


def alike(first: Criterion, second: Criterion) -> bool:
    """Whether two criteria ask the same of the same grader."""
    if first.polarity != second.polarity or first.scope != second.scope:
        return False
    if isinstance(first.grader, JudgeGrader) and isinstance(second.grader, JudgeGrader):
        if first.audit != second.audit and first.grader.judge != second.grader.judge:
            return False  # the same question to another judge is a fair audit
        return _same_words(_words(first.text), _words(second.text))
    return canonical_json(first.grader.model_dump(mode="json")) == canonical_json(second.grader.model_dump(mode="json"))


def _same_prompts(first: Criterion, second: Criterion) -> bool:
    """Whether there may be prompts that both are for."""
    one, other = first.applies_to, second.applies_to
    if one is None or other is None:
        return True
    pairs = ((one.categories, other.categories), (one.tags, other.tags))
    return all(a is None or b is None or set(a) & set(b) for a, b in pairs)


def _words(text: str) -> list[str]:
    """The words that carry meaning, in singular; negations and numbers among them."""
    found = re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower().replace("’", "'"))
    return [_singular(word) for word in found if word not in _STOP and word not in _SUBJECT]


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _same_words(one: list[str], other: list[str]) -> bool:
    if not one or not other:
        return False
    if sorted(one) == sorted(other):
        return True
    small, large = sorted((set(one), set(other)), key=len)
    extra = large - small
    if len(small) < LEAST_WORDS or not small <= large or len(extra) > 1:
        return False
    return not extra & {"not", "no", "never", "without"} and not any(re.search(r"\d", word) for word in extra)
