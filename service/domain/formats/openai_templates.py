"""Placeholders of OpenAI's graders, `{{ item.x }}` and `{{ sample.output_text }}`, as ours and back."""

from __future__ import annotations

import re

from service.domain.formats.rubric_base import Note
from service.domain.formats.source import Source, fail, turns

_HOLE = re.compile(r"\{\{(.*?)\}\}", re.S)
_NAME = re.compile(r"\s*(item|sample)\.([A-Za-z_][A-Za-z0-9_.\-]*)\s*")
_OWN = ("reference", "category")
_PROMPTS = ("prompt", "messages", "input")
PROMPT, COMPLETION = "[the prompt]", "[the completion]"


def is_output(text: str) -> bool:
    """Whether a text is the sample's own and nothing else."""
    return re.fullmatch(r"\s*\{\{\s*sample\.output_text\s*\}\}\s*", text) is not None


def as_template(text: str, place: str) -> str:
    """A text with our placeholders. The row's own fields keep their names, all others are the prompt's metadata."""
    return _HOLE.sub(lambda match: _ours(match.group(1), place), text)


def as_asked(source: Source, notes: list[Note]) -> str:
    """What a model grader is asked, as the text of a criterion.

    Our judges are shown the prompt and the completion apart, fenced, so these are named where they would have stood.
    """
    texts = []
    for position, turn in enumerate(turns(source.items("input"), source.at("input"))):
        place = f"{source.at('input')}/{position}/content"
        shown = _HOLE.sub(lambda match, place=place: _named(match.group(1), place), turn["content"])  # type: ignore[misc]
        if shown != turn["content"] and (PROMPT in shown or COMPLETION in shown):
            notes.append(
                Note(place, f"{PROMPT} and {COMPLETION} stand where the judge's own question shows them apart")
            )
        texts.append(shown)
    return "\n\n".join(text.strip() for text in texts if text.strip())


def as_theirs(template: str) -> str:
    """One of our templates with OpenAI's placeholders."""
    text = re.sub(r"\{\{\s*completion\.text\s*\}\}", "{{ sample.output_text }}", template)
    text = re.sub(r"\{\{\s*prompt\.metadata\.([^{}\s]+)\s*\}\}", r"{{ item.\1 }}", text)
    return re.sub(r"\{\{\s*prompt\.(reference|category)\s*\}\}", r"{{ item.\1 }}", text)


def _named(hole: str, place: str) -> str:
    match = _NAME.fullmatch(hole)
    if match is not None and match.group(1) == "item" and match.group(2) in _PROMPTS:
        return PROMPT
    if match is not None and match.groups() == ("sample", "output_text"):
        return COMPLETION
    return _ours(hole, place)


def _ours(hole: str, place: str) -> str:
    match = _NAME.fullmatch(hole)
    if match is None:
        fail(
            place,
            "invalid_template",
            f"'{{{{{hole}}}}}' is not read: placeholders are names such as {{{{ item.answer }}}}",
        )
    root, name = match.groups()
    if root == "sample":
        if name == "output_text":
            return "{{ completion.text }}"
        fail(place, "unsupported_template", f"'sample.{name}' is not offered; a python grader gets the whole sample")
    return f"{{{{ prompt.{name} }}}}" if name in _OWN else f"{{{{ prompt.metadata.{name} }}}}"
