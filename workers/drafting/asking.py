"""What a drafter is asked. The answers are data: fenced, marked, put in once, never read as a template again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

from service.domain.asked import Messages
from workers.graders.judge.payload import fence_for, marked, marked_conversation

LONGEST = 6000
"""Characters of an answer that a drafter is shown; the checks grade all of it."""


@lru_cache(maxsize=8)
def _text(name: str) -> str:
    return files("workers.drafting").joinpath("prompts", f"{name}.txt").read_text(encoding="utf-8").strip()


def draft_messages(
    items: Sequence[Mapping[str, Any]], guidelines: str, instructions: str, *, most: int, nonce: str, version: int
) -> Messages:
    """The question for criteria; `items` have a prompt, good and bad texts."""
    parts = [_text(f"draft_system_{version}")]
    for heading, said in (("What good means here:", guidelines), ("What the team asks for:", instructions)):
        if said.strip():
            parts.append(f"{heading}\n{said.strip()}")
    values = {"examples": _examples(items), "most": str(most), "nonce": nonce}
    request = re.sub(r"<<(examples|most|nonce)>>", lambda m: values[m.group(1)], _text(f"draft_request_{version}"))
    return [{"role": "system", "content": "\n\n".join(parts)}, {"role": "user", "content": request}]


def _examples(items: Sequence[Mapping[str, Any]]) -> str:
    shown: list[tuple[str, str]] = []
    for number, item in enumerate(items, 1):
        shown.append((f"Prompt {number}:", marked_conversation(item["prompt"])))
        for kind, heading in (("good", "A good answer"), ("bad", "A worse answer")):
            shown += [(f"{heading} to prompt {number}:", marked(_cut(text))) for text in item[kind]]
    fence = fence_for(*(body for _, body in shown))
    return "\n\n".join(f"{heading}\n{fence}\n{body}\n{fence}" for heading, body in shown)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} […]"
