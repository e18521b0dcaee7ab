"""A completion without what judges made of it; with it, it is in `service.completion`, because gradings show that too."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from service.db.tables import Completion
from service.domain.rubric import Criterion, RubricContent


class AskedOut(BaseModel):
    """What a person is asked about a completion, in its prompt's words."""

    criterion: str
    title: str
    text: str
    polarity: str
    scale: dict[str, Any]


class BlindCompletionOut(BaseModel):
    """What a person needs who labels a completion, and nothing that says what judges think of it: no cell, no number, no step.

    `criteria` are all that have a text to read: those of verifiers may have none.
    """

    id: str
    prompt: dict[str, Any]
    text: str
    guidelines: str
    criteria: list[AskedOut]
    rubric: dict[str, Any]

    @classmethod
    def of(cls, row: Completion, content: RubricContent, criteria: list[Criterion]) -> BlindCompletionOut:
        """From its row and what it is graded on."""
        asked = [
            AskedOut(criterion=c.key, title=c.title, text=c.text, polarity=c.polarity, scale=c.scale.model_dump())
            for c in criteria
            if c.text.strip() or c.title.strip()
        ]
        shown = {name: row.prompt[name] for name in ("id", "category", "messages") if name in row.prompt}
        rubric = {"id": row.rubric_id, "version": row.rubric_version}
        return cls(id=row.id, prompt=shown, text=row.text, guidelines=content.guidelines, criteria=asked, rubric=rubric)
