"""One-pass `{{ prompt.reference }}` templates: what is put in is never read again, and no code runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_FIELD = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_.\-]*)\s*\}\}")
_ROOTS = ("prompt.reference", "prompt.metadata", "prompt.category", "completion.text")


class TemplateError(ValueError):
    """A template names something that does not exist; the message says what."""


def check_template(text: str) -> str:
    """Give `text` back if every placeholder names a known root, else raise `TemplateError`."""
    for name in _FIELD.findall(text):
        if not _known(name):
            raise TemplateError(f"'{{{{ {name} }}}}' is not known; templates may use {', '.join(_ROOTS)}")
    return text


def _known(name: str) -> bool:
    return any(name == root or (root == "prompt.metadata" and name.startswith(root + ".")) for root in _ROOTS)


def render(text: str, prompt: Mapping[str, Any], completion: str) -> str:
    """Replace every placeholder once.

    `prompt` has `reference`, `category` and `metadata`. Strings stand as they are, anything else as JSON.
    Raises `TemplateError` for a value that this prompt does not have.
    """

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name == "completion.text":
            return completion
        found = _value(name, prompt)
        if found is None:
            raise TemplateError(f"the prompt has no '{name.removeprefix('prompt.')}', which '{{{{ {name} }}}}' needs")
        return found

    return _FIELD.sub(value, text)


def fill(text: str, prompt: Mapping[str, Any]) -> str:
    """Replace every placeholder that names a value of this prompt, once; everything else stands as it was written."""

    def value(match: re.Match[str]) -> str:
        found = _value(match.group(1), prompt)
        return match.group() if found is None else found

    return _FIELD.sub(value, text)


def _value(name: str, prompt: Mapping[str, Any]) -> str | None:
    """The prompt's value of this name: strings as they are, anything else as JSON; null if there is none."""
    if not name.startswith("prompt.") or not _known(name):
        return None
    here: Any = prompt
    for part in name.split(".")[1:]:
        here = here.get(part) if isinstance(here, Mapping) else None
    if here is None:
        return None
    return here if isinstance(here, str) else json.dumps(here, ensure_ascii=False)


def needs(text: str) -> list[str]:
    """The names of `prompt` fields that `text` uses, e.g. `["prompt.reference"]`."""
    return [name for name in _FIELD.findall(text) if name.startswith("prompt.") and _known(name)]


def misused(text: str) -> list[str]:
    """Placeholders in a judge's text that look like ours and are not: a misspelt field, or the completion, which stands elsewhere."""
    names = [name for name in _FIELD.findall(text) if name.split(".")[0] in ("prompt", "completion")]
    return [name for name in names if name not in needs(text)]
