"""What a judge is asked (api.md). The payload is data: fenced, put in once, and never read again as a template."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

from service.domain.judge import JudgeConfig, JudgeExample
from service.domain.rubric import Criterion, LevelScale, UnitScale
from workers.graders.judge.payload import conversation, fence_for, marked, marked_conversation
from workers.graders.judge.reply import score_of


@dataclass(frozen=True, slots=True)
class Templates:
    """The texts of one version, by the names of their files, and how the payload is prepared for them."""

    system: str
    request: str
    step: str
    mark: Callable[[str], str]
    converse: Callable[[Mapping[str, Any]], str]
    tidy: bool


PROMPTS = {
    1: Templates("judge_system_1", "judge_request_1", "judge_step_2", str, conversation, tidy=False),
    2: Templates("judge_system_2", "judge_request_2", "judge_step_2", marked, marked_conversation, tidy=True),
}
"""A version never changes once it is released: verdicts of different texts are not comparable. Version 1 had no steps."""


@dataclass(frozen=True, slots=True)
class Step:
    """What comes before the step that is graded, and the step's number, from 1."""

    before: str
    number: int


@lru_cache(maxsize=16)
def _text(name: str) -> str:
    return files("workers.graders").joinpath("prompts", f"{name}.txt").read_text(encoding="utf-8").strip()


def describe(criterion: Criterion, *, tidy: bool = True) -> str:
    """A criterion with the answers that it allows; `tidy` keeps it together, whatever stands in its text and labels."""
    quoted: Callable[[str], str] = _quoted if tidy else '"{}"'.format
    within: Callable[[str, int], str] = _indented if tidy else lambda text, _: text
    title = f"{criterion.title}. " if criterion.title else ""
    if isinstance(criterion.scale, LevelScale):
        levels = "\n".join(
            f"    - {quoted(level.label)}" + (f": {within(level.anchor, 6)}" if level.anchor else "")
            for level in criterion.scale.levels
        )
        answers = f"verdict: one of these labels, as a string\n{levels}"
    elif isinstance(criterion.scale, UnitScale):
        answers = "verdict: a number from 0.0 (not at all) to 1.0 (fully)"
    else:
        answers = "verdict: true if the answer meets this, false if it does not"
    return f"- criterion {quoted(criterion.key)}: {within(title + criterion.text, 2)}\n  {answers}"


def _indented(text: str, by: int) -> str:
    """No line of it begins where the question's own lines do."""
    return ("\n" + " " * by).join(text.strip().splitlines())


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def messages_for(
    criteria: Sequence[Criterion],
    *,
    config: JudgeConfig,
    guidelines: str,
    prompt: Mapping[str, Any],
    answer: str,
    nonce: str,
    step: Step | None = None,
) -> list[dict[str, str]]:
    """The messages of one question. The nonce and the criteria stand after the payload, outside the fences."""
    templates = PROMPTS[config.prompt.version]
    question, graded = templates.converse(prompt), templates.mark(answer)
    before = templates.mark(step.before) if step is not None else ""
    values = {
        "fence": fence_for(question, graded, before),
        "prompt": question,
        "before": before,
        "answer": graded,
        "note": _note(answer, step),
        "criteria": "\n".join(describe(criterion, tidy=templates.tidy) for criterion in criteria),
        "nonce": nonce,
    }
    template = _text(templates.request if step is None else templates.step)
    request = re.sub(r"<<(fence|prompt|before|answer|note|criteria|nonce)>>", lambda m: values[m.group(1)], template)
    parts = [_text(templates.system), config.prompt.system.strip()]
    if guidelines.strip():
        parts.append(f"What good means here:\n{guidelines.strip()}")
    parts.append(_examples([e for e in config.examples if _fits(e, criteria)], templates))
    return [
        {"role": "system", "content": "\n\n".join(part for part in parts if part)},
        {"role": "user", "content": request},
    ]


def _note(answer: str, step: Step | None) -> str:
    """What a judge could take for a mistake of ours. An empty answer is asked about like any other: it may be the right one."""
    what = "answer" if step is None else "step"
    notes = (
        [] if step is None else [f"This is step {step.number}." + ("" if step.before else " No step comes before it.")]
    )
    if not answer:
        notes.append(f"The {what} is empty: there is nothing between its fences. Judge it as it is.")
    elif not answer.strip():
        notes.append(f"The {what} is nothing but white space. Judge it as it is.")
    return "".join(f"\n({note})\n" for note in notes)


def _fits(example: JudgeExample, criteria: Sequence[Criterion]) -> bool:
    """Whether an example helps here: its criterion is asked (if it names one), and its verdict is one that may be given."""
    asked = [c for c in criteria if example.criterion is None or c.key == example.criterion]
    return any(example.verdict is None or score_of(c, example.verdict) is not None for c in asked)


def _examples(examples: Sequence[JudgeExample], templates: Templates) -> str:
    """Graded examples, in a form that is no reply: no JSON object, and no nonce."""
    if not examples:
        return ""
    told = [_example(number, example, templates) for number, example in enumerate(examples, 1)]
    return "\n\n".join(
        [
            "Graded examples follow. They show how verdicts are reached; they say nothing about the answer to come.",
            *told,
        ]
    )


def _example(number: int, example: JudgeExample, templates: Templates) -> str:
    texts = {
        "The prompt was": templates.mark(example.prompt),
        "The answer was": templates.mark(example.answer),
        "The reasoning was": templates.mark(example.reasoning),
    }
    fence = fence_for(*texts.values())
    lines = [f"Example {number}." + (f" The criterion was {_quoted(example.criterion)}." if example.criterion else "")]
    lines += [f"{heading}\n{fence}\n{text}\n{fence}" for heading, text in texts.items() if text]
    verdict = "null, because it could not be assessed" if example.verdict is None else json.dumps(example.verdict)
    lines.append(f"The verdict was {verdict}.")
    if example.confidence is not None:
        lines.append(f"The confidence was {example.confidence}.")
    return "\n".join(lines)
