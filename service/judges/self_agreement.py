"""`/v1/judges/{id}/self-agreement`: how far a judge's votes on the same cells agree, from what it has replied."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import Depends, Query
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.queries import judges as judge_queries
from service.db.queries import replies as queries
from service.db.queries.rubrics import these_versions
from service.deps import CallerDep, SessionDep
from service.domain.replies import Vote, unpack
from service.domain.rubric import PROMPT_PREFIX
from service.domain.self_agreement import Judged, Scale, SelfAgreement, self_agreement
from service.errors import NotFound
from service.operation import needs, router

judge_agreement = router("judges")

MOST_CELLS = 5000

NO_VOTES = (
    "no cell of this revision has two votes or more whose replies are kept; to ask again about what is stored, POST "
    "/v1/gradings {completions or job, rubric, votes: 5, fresh: true}"
)


class SelfAgreementOut(BaseModel):
    """Over all criteria, and for each; criteria that prompts bring along are taken together as `prompt`.

    `more`: there are more cells than were looked at, which are the newest. `gone`: cells whose replies are kept no longer.
    """

    judge: str
    revision: int
    more: bool
    gone: int
    note: str | None
    overall: SelfAgreement
    criteria: dict[str, SelfAgreement]


class _Which:
    """Which cells."""

    def __init__(
        self,
        revision: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="by default the current one")] = None,
        job: Annotated[str | None, Query(description="only cells of this job")] = None,
        grading: Annotated[str | None, Query(description="only cells of this grading")] = None,
        criterion: str | None = None,
        cells: Annotated[int, Query(ge=1, le=MOST_CELLS, description="look at so many at most, newest first")] = 2000,
    ) -> None:
        self.revision, self.cells = revision, cells
        self.where = {"job_id": job, "grading_id": grading, "criterion": criterion}


@judge_agreement.get("/v1/judges/{judge_id}/self-agreement", openapi_extra=needs("judges:read"))
async def get_self_agreement(
    judge_id: str, session: SessionDep, caller: CallerDep, which: Annotated[_Which, Depends()]
) -> SelfAgreementOut:
    """How far a judge agrees with itself where it was asked more than once: by votes of a rubric, or of a grading with `votes`.

    Scores of votes on the same completion and criterion are compared, on step criteria step by step.
    """
    current = await session.scalar(judge_queries.current(caller.project_id, judge_id))
    if current is None:
        raise NotFound(f"there is no judge '{judge_id}'")
    revision = which.revision or current
    statement = queries.voted(caller.project_id, judge_id, revision, **which.where).limit(which.cells + 1)
    rows = (await session.execute(statement)).all()
    more, rows = len(rows) > which.cells, rows[: which.cells]
    scales = await _scales(session, {(row.rubric_id, row.rubric_version) for row in rows})
    ids = {row.replies_id for row in rows}
    bodies = dict((await session.execute(queries.these(caller.project_id, ids))).tuples().all()) if ids else {}
    found = await asyncio.to_thread(_statistics, rows, bodies, scales)
    return SelfAgreementOut(judge=judge_id, revision=revision, more=more, **found)


async def _scales(session: AsyncSession, pins: set[tuple[str, int]]) -> dict[tuple[str, int], dict[str, Scale]]:
    """Type of the scale by criterion, of each rubric version."""
    if not pins:
        return {}
    return {
        (row.rubric_id, row.version): _scales_of(row.graded_by["criteria"])
        for row in await session.scalars(these_versions(pins))
    }


def _scales_of(criteria: Sequence[Mapping[str, Any]] | None) -> dict[str, Scale]:
    return {item["key"]: (item.get("scale") or {}).get("type", "boolean") for item in criteria or ()}


def _statistics(
    rows: Sequence[Any], bodies: Mapping[str, bytes], scales: Mapping[tuple[str, int], Mapping[str, Scale]]
) -> dict[str, Any]:
    """A reply counts once, however many cells of the cache name it."""
    votes: dict[str, list[Vote]] = {}
    judged: dict[str, list[Judged]] = {}
    seen: set[tuple[str, str]] = set()
    gone = 0
    for row in rows:
        if row.replies_id not in bodies:
            gone += 1
        elif (row.replies_id, row.criterion) not in seen:
            seen.add((row.replies_id, row.criterion))
            if row.replies_id not in votes:
                votes[row.replies_id] = unpack(bodies[row.replies_id])
            own = row.criterion.startswith(f"{PROMPT_PREFIX}.")
            known = _scales_of(row.own) if own else scales.get((row.rubric_id, row.rubric_version), {})
            name = PROMPT_PREFIX if own else row.criterion
            scale = known.get(row.criterion.removeprefix(f"{PROMPT_PREFIX}."), "boolean")
            judged.setdefault(name, []).extend(_judged(row, scale, votes[row.replies_id]))
    every = [cell for cells in judged.values() for cell in cells]
    return {
        "gone": gone,
        "note": None if judged else NO_VOTES,
        "overall": self_agreement(every, one_criterion=False),
        "criteria": {
            name: self_agreement(cells, one_criterion=name != PROMPT_PREFIX) for name, cells in sorted(judged.items())
        },
    }


def _judged(row: Any, scale: Scale, votes: Sequence[Vote]) -> list[Judged]:
    """One for each step, or one for the completion."""
    scores: dict[int | None, list[float | None]] = {}
    for vote in votes:
        reading = vote.readings.get(row.criterion)
        if reading is not None:
            scores.setdefault(vote.step, []).append(reading.score)
    return [
        Judged(row.completion_id, tuple(score for score in them if score is not None), them.count(None), scale)
        for them in scores.values()
    ]
