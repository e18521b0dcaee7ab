"""Where finished groups go: into completions and cells, or, for a `try`, into the one answer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from service.domain.ids import new_id
from workers.gradings.groups import GroupWork
from workers.runs.gradings import HeldGrading
from workers.runs.writer import cell_row, score_columns


class Results(Protocol):
    """What the grader is handed."""

    def add(self, groups: Sequence[GroupWork], *, done: int, failed: int) -> None:
        """These groups are finished; so many cells are done and failed with them."""


class StoredResults:
    """Rows of the grading, in the transaction that finishes their groups."""

    def __init__(self, held: HeldGrading) -> None:
        self._held = held

    def add(self, groups: Sequence[GroupWork], *, done: int, failed: int) -> None:
        """Completions and cells of these groups."""
        completions, cells = rows_of(self._held, groups)
        keys = [question.key for group in groups for question, _ in group.questions]
        numbers = [group.number for group in groups]
        self._held.finish(numbers, keys, completions=completions, cells=cells, done=done, failed=failed)


class Answer:
    """The rows as JSON; nothing is stored of them."""

    def __init__(self, held: HeldGrading) -> None:
        self._held = held
        self.result: dict[str, Any] = {"completions": [], "cells": []}

    def add(self, groups: Sequence[GroupWork], *, done: int, failed: int) -> None:
        """Keep the rows; an id of a critique would lead nowhere."""
        del done, failed
        completions, cells = rows_of(self._held, groups)
        self.result["completions"] += [_as_json(row) for row in completions]
        self.result["cells"] += [_as_json({**row, "critique_id": None}) for row in cells]


def _as_json(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in row.items()}


def rows_of(held: HeldGrading, groups: Sequence[GroupWork]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Completions and cells of scored groups."""
    created_at = datetime.now(UTC)  # the partition key: a completion and its cells lie in the same month
    completions: list[dict[str, Any]] = []
    cells: list[dict[str, Any]] = []
    owned = {"project_id": held.project_id, "grading_id": held.id}
    for group in groups:
        group_id = group.group_id or new_id("group")
        for index, (member, numbers) in enumerate(zip(group.members, score_columns(group.scored), strict=True)):
            completion_id = new_id("completion")
            completions.append(
                {
                    "id": completion_id,
                    "created_at": created_at,
                    **owned,
                    "fence": held.fence,
                    "attempt": 1,
                    "step": 0,
                    "purpose": "grading",
                    "group_id": group_id,
                    "group_index": group.number,
                    "idx": index,
                    "prompt": member.prompt,
                    "text": member.text,
                    "token_ids": [],
                    "logprobs": [],
                    "rubric_id": group.by.id,
                    "rubric_version": group.by.version,
                    "position": member.position,
                    "source_id": member.source,
                    **numbers,
                }
            )
            cells.extend({**cell_row(cell, completion_id, created_at), **owned} for cell in member.cells.values())
    return completions, cells
