"""`…/cells/{criterion}/replies`: what a judge replied, word for word, and how it was read."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, Field

from service.db.queries import completions as queries
from service.db.queries import replies as reply_queries
from service.db.tables import CellRow, Completion
from service.deps import CallerDep, SessionDep
from service.domain.replies import Attempt, Reading, unpack
from service.errors import NotFound
from service.operation import needs, router

replies = router("completions")


class VoteOut(BaseModel):
    """One question and what came of it: every attempt in order, and what was read out of the last one on this criterion."""

    vote: int
    step: int | None = Field(description="the step's number, from 1, on a criterion of scope step")
    reply_format: str
    attempts: list[Attempt]
    reading: Reading | None


class RepliesOut(BaseModel):
    """What a judge replied on a completion's criterion, by step and vote. Criteria that share a question share its replies.

    `cached`: it was asked for another completion with the same text. Without `data`, `note` says why.
    """

    completion: str
    criterion: str
    judge: str | None
    revision: int | None
    cached: bool
    asked_at: datetime | None
    note: str | None
    data: list[VoteOut]


NOT_KEPT = "these replies were not kept: by an earlier release, or while GRAPE_GRADING__REPLIES_DAYS was 0"
GONE = "these replies are gone: GRAPE_GRADING__REPLIES_DAYS says for how long they are kept"


@replies.get("/v1/completions/{completion_id}/cells/{criterion}/replies", openapi_extra=needs("jobs:read"))
async def get_replies(completion_id: str, criterion: str, session: SessionDep, caller: CallerDep) -> RepliesOut:
    """What the judge of a criterion replied: all votes, and all attempts, those that failed too."""
    row = await session.scalar(queries.completion(caller.project_id, completion_id))
    return await _replies(session, row, completion_id, criterion)


@replies.get(
    "/v1/gradings/{grading_id}/completions/{completion_id}/cells/{criterion}/replies", openapi_extra=needs("grade")
)
async def get_graded_replies(
    grading_id: str, completion_id: str, criterion: str, session: SessionDep, caller: CallerDep
) -> RepliesOut:
    """The same for a completion of a grading."""
    statement = queries.completion(caller.project_id, completion_id).where(Completion.grading_id == grading_id)
    row = await session.scalar(statement)
    return await _replies(session, row, completion_id, criterion)


async def _replies(session: SessionDep, row: Completion | None, completion_id: str, criterion: str) -> RepliesOut:
    if row is None:
        raise NotFound(f"there is no completion '{completion_id}'")
    cell = await session.scalar(reply_queries.cell(row.cells_of or row.id, criterion))
    if cell is None or (row.cells_of is not None and criterion not in (row.reused or ())):
        raise NotFound(f"completion '{row.id}' has no cell of a criterion '{criterion}'")
    if cell.grader != "judge":
        raise NotFound(f"criterion '{criterion}' is graded by '{cell.grader}', and no judge was asked")
    found = await session.scalar(reply_queries.replies(row.project_id, cell.replies_id)) if cell.replies_id else None
    note = None
    if found is None:
        note = NOT_KEPT if cell.replies_id is None else GONE
    return RepliesOut(
        completion=row.id,
        criterion=criterion,
        judge=cell.judge_id,
        revision=cell.judge_revision,
        cached=cell.cached,
        asked_at=found.created_at if found is not None else None,
        note=note,
        data=_votes(found.body, cell) if found is not None else [],
    )


def _votes(body: bytes, cell: CellRow) -> list[VoteOut]:
    return [
        VoteOut(reading=vote.readings.get(cell.criterion), **dict(vote))
        for vote in sorted(unpack(body), key=lambda vote: (vote.step or 0, vote.vote))
    ]
