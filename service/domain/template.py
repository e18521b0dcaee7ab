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
        if not any(name == root or (root == "prompt.metadata" and name.startswith(root + ".")) for root in _ROOTS):
            raise TemplateError(f"'{{{{ {name} }}}}' is not known; templates may use {', '.join(_ROOTS)}")
    return text


def render(text: str, prompt: Mapping[str, Any], completion: str) -> str:
    """Replace every placeholder once.

    `prompt` has `reference`, `category` and `metadata`. Strings stand as they are, anything else as JSON.
    Raises `TemplateError` for a value that this prompt does not have.
    """

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name == "completion.text":
            return completion
        here: Any = prompt
        for part in name.split(".")[1:]:
            here = here.get(part) if isinstance(here, Mapping) else None
        if here is None:
            raise TemplateError(f"the prompt has no '{name.removeprefix('prompt.')}', which '{{{{ {name} }}}}' needs")
        return here if isinstance(here, str) else json.dumps(here, ensure_ascii=False)

    return _FIELD.sub(value, text)


def needs(text: str) -> list[str]:
    """The names of `prompt` fields that `text` uses, e.g. `["prompt.reference"]`."""
    return [name for name in _FIELD.findall(text) if name != "completion.text"]
