"""From a grading's source to its items and groups. A lost worker's successor goes on behind the last items that stand."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from service.db.queries import datasets as dataset_queries
from service.db.queries import grading_items as item_queries
from service.domain.dataset import Snapshot
from service.domain.grading import TEXTS_PER_ROW, graded_texts, prompt_key
from workers.gradings.rubrics import Rubrics, criteria_for
from workers.runs.gradings import HeldGrading

CHUNK = 500


def expand(held: HeldGrading, rubrics: Rubrics, check: Callable[[], None]) -> None:
    """Items and groups, unless they are there already."""
    if held.grading.planned:
        return
    source = held.grading.source
    if "dataset" in source:
        _expand_dataset(held, Snapshot.model_validate(source["dataset"]), source["kind"], check)
    elif not held.grading.expanded:
        split = item_queries.split_by(rubrics.names)
        if "job" in source:
            values = {"job_id": source["job"], "purpose": source["purpose"], **split}
            held.add_items(item_queries.ADD_JOB, values, expanded=1)
        elif "grading" in source:
            held.add_items(item_queries.ADD_GRADING, {"source_id": source["grading"], **split}, expanded=1)
    held.plan(*_count(held, rubrics))


def _expand_dataset(held: HeldGrading, snapshot: Snapshot, kind: str, check: Callable[[], None]) -> None:
    """A snapshot's sequence numbers have no gaps, so the number of items says which row is next."""
    per_row = TEXTS_PER_ROW[kind]
    position = held.grading.expanded
    while position < snapshot.last_seq * per_row:
        check()
        statement = dataset_queries.rows_between(snapshot.dataset, position // per_row, snapshot.last_seq, CHUNK)
        rows = held.read(lambda session, s=statement: [(r.seq, r.content) for r in session.scalars(s)])  # type: ignore[misc]
        items: list[dict[str, Any]] = []
        for seq, content in rows:
            for prompt, text in graded_texts(kind, f"{snapshot.dataset}:{seq}", content):
                key = f"p:{prompt_key(prompt)}"
                items.append({"position": position + len(items), "group_key": key, "prompt": prompt, "text": text})
        position += len(items)
        held.add_items(item_queries.ADD_TEXTS, {"rows": json.dumps(items, ensure_ascii=False)}, expanded=position)


def _count(held: HeldGrading, rubrics: Rubrics) -> tuple[int, int]:
    """Items, and cells."""
    kinds = held.kinds_of_prompts()
    if held.grading.reuse_cells:
        rubrics.load_all(kinds)
    items = cells = 0
    for kind in kinds:
        prompt = {"category": kind.category, "tags": kind.tags or [], "criteria": kind.criteria or []}
        by = rubrics.now(kind.category, kind.rubric_id, kind.rubric_version)
        criteria = criteria_for(by, rubrics.asked(prompt))
        if kind.criteria and not held.grading.reuse_cells:
            rubrics.require_allowed(by, criteria)
        items += kind.items
        cells += kind.items * len(criteria)
    return items, cells
