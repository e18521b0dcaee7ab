"""What a judge is asked (api.md). The payload is data: fenced, put in once, and never read again as a template."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

from service.domain.rubric import Criterion, LevelScale, UnitScale

PROMPT_VERSION = 1
"""Part of what identifies a verdict; raise it with every change of the texts in `prompts/`."""


@lru_cache(maxsize=8)
def _text(name: str) -> str:
    return files("workers.graders").joinpath("prompts", f"{name}.txt").read_text(encoding="utf-8").strip()


def fence_for(*texts: str) -> str:
    """Backticks, more of them than stand in a row anywhere in the texts."""
    longest = max((len(run) for text in texts for run in re.findall(r"`+", text)), default=0)
    return "`" * max(4, longest + 1)


def conversation(prompt: Mapping[str, Any]) -> str:
    """The prompt's messages as text; a single user message stands as it is."""
    messages = prompt["messages"]
    if len(messages) == 1 and messages[0]["role"] == "user":
        return str(messages[0]["content"])
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in messages)


def describe(criterion: Criterion) -> str:
    """A criterion with the answers that it allows."""
    title = f"{criterion.title}. " if criterion.title else ""
    if isinstance(criterion.scale, LevelScale):
        levels = "\n".join(
            f'    - "{level.label}"' + (f": {level.anchor}" if level.anchor else "") for level in criterion.scale.levels
        )
        answers = f"verdict: one of these labels, as a string\n{levels}"
    elif isinstance(criterion.scale, UnitScale):
        answers = "verdict: a number from 0.0 (not at all) to 1.0 (fully)"
    else:
        answers = "verdict: true if the answer meets this, false if it does not"
    return f'- criterion "{criterion.key}": {title}{criterion.text}\n  {answers}'


def messages_for(
    criteria: Sequence[Criterion],
    *,
    guidelines: str,
    system: str,
    prompt: Mapping[str, Any],
    answer: str,
    nonce: str,
) -> list[dict[str, str]]:
    """The messages of one request. The nonce and the criteria stand after the payload, outside the fences."""
    question = conversation(prompt)
    values = {
        "fence": fence_for(question, answer),
        "prompt": question,
        "answer": answer,
        "criteria": "\n".join(describe(criterion) for criterion in criteria),
        "nonce": nonce,
    }
    request = re.sub(r"<<(fence|prompt|answer|criteria|nonce)>>", lambda m: values[m.group(1)], _text("judge_request"))
    parts = [_text("judge_system"), system.strip()]
    if guidelines.strip():
        parts.append(f"What good means here:\n{guidelines.strip()}")
    return [
        {"role": "system", "content": "\n\n".join(part for part in parts if part)},
        {"role": "user", "content": request},
    ]
