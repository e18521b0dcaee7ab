"""What revisers and pairwise judges are asked. The payload is data: fenced, marked, put in once, never read as a template again.

A version of these texts never changes once it is released: what was written for different texts is not comparable.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from service.domain.asked import Messages
from service.domain.rubric import Criterion
from workers.graders.judge.payload import MARK, fence_for, marked, marked_conversation

_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)


_HEADING = re.compile(
    r"^(?=[^\w\n]*(?:the answer so far|what graders said about it|write the better answer|the (?:first|second) answer)\b)",
    re.IGNORECASE | re.MULTILINE,
)
"""Where material has a line that looks like one of these questions' own; `marked` knows those of a judge's question."""


def _material(text: str) -> str:
    """A text that is fit to stand in a question."""
    return _HEADING.sub(MARK, marked(text))


@lru_cache(maxsize=16)
def _text(name: str) -> str:
    return files("workers.revisions").joinpath("prompts", f"{name}.txt").read_text(encoding="utf-8").strip()


@dataclass(frozen=True, slots=True)
class Critique:
    """What was said about a completion on one criterion. `id` names what a judge said; a verifier says nothing."""

    criterion: str
    score: float | None
    said: str | None
    id: str | None = None


def critiques_for(
    criteria: Sequence[Criterion], cells: Mapping[str, Any], ids: Mapping[str, str | None]
) -> list[Critique]:
    """What the reviser is told: what fell short, and every judge's words; in the rubric's order.

    Audit criteria stay untold: what the policy is never trained on must not be trained on by this way either. `cells` have
    `score` and `reasoning`; `ids` are those of the judges' words, by criterion.
    """
    found = []
    for criterion in criteria:
        cell = cells.get(criterion.key)
        if criterion.audit or cell is None:
            continue
        if cell.reasoning or (cell.score is not None and cell.score < 1):
            found.append(Critique(_name(criterion), cell.score, cell.reasoning, ids.get(criterion.key)))
    return found


def _name(criterion: Criterion) -> str:
    """A criterion by its title or key: its text may hold what only graders know of the prompt, such as the reference."""
    return criterion.title or criterion.key


def revision_messages(
    prompt: Mapping[str, Any], answer: str, critiques: Sequence[Critique], guidelines: str, version: int
) -> Messages:
    """The question for a better answer."""
    told = "\n".join(map(_line, critiques)) or "Nothing in particular; it can still be better."
    return _asked(
        f"revise_system_{version}",
        f"revise_request_{version}",
        guidelines,
        {"prompt": _conversation(prompt), "answer": _material(answer), "critiques": _material(told)},
    )


def _conversation(prompt: Mapping[str, Any]) -> str:
    return _HEADING.sub(MARK, marked_conversation(prompt))


def _line(critique: Critique) -> str:
    score = "not graded" if critique.score is None else f"score {critique.score:.2f} of 1"
    said = f": {critique.said.strip()}" if critique.said else ""
    return f"- {critique.criterion} ({score}){said}"


def preference_messages(
    prompt: Mapping[str, Any], first: str, second: str, guidelines: str, *, nonce: str, version: int
) -> Messages:
    """The question which of two answers is better."""
    values = {"prompt": _conversation(prompt), "first": _material(first), "second": _material(second)}
    return _asked(f"prefer_system_{version}", f"prefer_request_{version}", guidelines, values, nonce=nonce)


def _asked(system: str, request: str, guidelines: str, material: Mapping[str, str], **more: str) -> Messages:
    values = {**material, "fence": fence_for(*material.values()), **more}
    names = "|".join(values)
    parts = [_text(system)]
    if guidelines.strip():
        parts.append(f"What good means here:\n{guidelines.strip()}")
    return [
        {"role": "system", "content": "\n\n".join(parts)},
        {"role": "user", "content": re.sub(f"<<({names})>>", lambda m: values[m.group(1)], _text(request))},
    ]


def written(text: str) -> str:
    """The answer itself: without thinking before it, and without white space around it."""
    return _THOUGHT.sub("", text).strip()
