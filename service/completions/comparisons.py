"""`/v1/comparisons`: two jobs or gradings on the same prompts, from what is stored of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import StringConstraints
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.queries import completions as queries
from service.db.queries import gradings as grading_queries
from service.db.queries import jobs as job_queries
from service.deps import CallerDep, SessionDep
from service.domain.base import Value
from service.domain.comparison import Compared, Scored, Side, compare
from service.domain.grading import prompt_key
from service.errors import Invalid
from service.operation import needs, router

comparisons = router("completions")

MOST_CELLS = 200_000
SideId = Annotated[str, StringConstraints(pattern=r"^[a-z]+_[0-9a-z]+$")]


class ComparisonIn(Value):
    """What is compared: a job's held-out completions (of its last evaluation) or a grading's."""

    left: SideId
    right: SideId


class ComparisonOut(Compared):
    """Left against right."""

    left: str
    right: str


@comparisons.post("/v1/comparisons", openapi_extra=needs("jobs:read", **{"x-creates": False}))
async def post_comparison(body: ComparisonIn, session: SessionDep, caller: CallerDep) -> ComparisonOut:
    """Compare two jobs or gradings on the prompts that both have: paired differences of plain rewards and scores, and warnings.

    Nothing is sampled, graded or stored. To compare models or checkpoints, submit an `evaluate` job with `compare_to`.
    """
    left = await _rows(session, caller.project_id, "left", body.left)
    right = await _rows(session, caller.project_id, "right", body.right)
    found = await asyncio.to_thread(lambda: compare(_side(*left), _side(*right)))
    return ComparisonOut(left=body.left, right=body.right, **dict(found))


async def _rows(session: AsyncSession, project: str, name: str, owner: str) -> tuple[Sequence[Any], Sequence[Any]]:
    """Completions and cells; 422 at the side's name."""
    place = f"/{name}"
    if owner.startswith("job_"):
        exists = await session.scalar(job_queries.by_id(project, owner)) is not None
        which = queries.last_evaluation(owner)
    elif owner.startswith("grd_"):
        exists = await session.scalar(grading_queries.by_id(project, owner)) is not None
        which = queries.of_grading(owner)
    else:
        message = "compare jobs or gradings; models and checkpoints are compared by an 'evaluate' job with 'compare_to'"
        raise Invalid.at(place, "wrong_kind", message)
    if not exists:
        raise Invalid.at(place, "not_found", f"there is no '{owner}'")
    count = await session.scalar(queries.count_cells(which))
    if count and count > MOST_CELLS:
        message = (
            f"'{owner}' has {count} cells, and at most {MOST_CELLS} are compared; compare gradings of fewer completions"
        )
        raise Invalid.at(place, "too_many", message)
    rows = (await session.execute(queries.to_compare(which))).all()
    if not rows:
        message = f"'{owner}' has no held-out completions; give the job an 'evaluation'" if owner.startswith("job_") else (
            f"'{owner}' has no completions yet"
        )  # fmt: skip
        raise Invalid.at(place, "empty", message)
    return rows, (await session.execute(queries.scores_to_compare(which))).all()


def _side(rows: Sequence[Any], cells: Sequence[Any]) -> Side:
    by_completion: dict[str, list[Any]] = {}
    for cell in cells:
        by_completion.setdefault(cell.completion_id, []).append(cell)
    side = Side()
    for row in rows:
        kept = None if row.reused is None else set(row.reused)
        own = (cell for cell in by_completion.get(row.cells_of or row.id, ()) if kept is None or cell.criterion in kept)
        scored = [
            Scored(cell.criterion, cell.score, cell.fingerprint, cell.criterion not in row.weighting) for cell in own
        ]
        side.add(prompt_key(row.prompt), row.plain_reward, (row.rubric_id, row.rubric_version), scored)
    return side
