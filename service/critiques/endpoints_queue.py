"""`/v1/labelling-queue`: what is worth labelling, worked out from the newest judged cells whenever somebody asks."""

from __future__ import annotations

from collections import defaultdict
from typing import Annotated

from fastapi import Query
from pydantic import BaseModel

from service.db.queries import critiques as critique_queries
from service.db.queries import labels as queries
from service.deps import CallerDep, Page, PageDep, SessionDep, encode_token
from service.domain.queue import Candidate, Reason, Why, priority, reasons
from service.errors import Invalid
from service.labelled import judged_cells
from service.operation import needs, router

labelling_queue = router("labels")

NEWEST = 2000
"""Completions that are looked at."""


class WhyOut(BaseModel):
    """A reason; without `value` and `message` in a blind queue."""

    type: Reason
    value: float | None
    message: str | None


class EntryOut(BaseModel):
    """One cell that is worth a label. In a blind queue nothing says what the judge thinks."""

    completion: str
    subject: str
    criterion: str
    judge: str
    revision: int
    score: float | None
    confidence: float | None
    priority: float
    reasons: list[WhyOut]


class QueueOut(BaseModel):
    """A page of the queue, the most urgent first; `cells` were looked at, and so many have been `labelled` already."""

    data: list[EntryOut]
    next_page_token: str | None = None
    cells: int
    labelled: int


@labelling_queue.get("/v1/labelling-queue", openapi_extra=needs("jobs:read"))
async def get_queue(
    session: SessionDep,
    caller: CallerDep,
    page: PageDep,
    job: str | None = None,
    grading: str | None = None,
    rubric: str | None = None,
    criterion: str | None = None,
    judge: str | None = None,
    reason: Reason | None = None,
    person: Annotated[str | None, Query(description="for whom: what others have labelled is not done for them")] = None,
    blind: Annotated[bool, Query(description="say nothing that shows what judges think")] = False,
    audit_share: Annotated[
        float, Query(ge=0, le=1, description="the share of all cells that is drawn at random")
    ] = 0.02,
    seed: Annotated[int, Query(ge=0, lt=2**31, description="of the random draws")] = 0,
) -> QueueOut:
    """Judged cells of the newest 2,000 completions that a person should label, with the reasons for each."""
    rows = queries.recent(caller.project_id, NEWEST, job_id=job, grading_id=grading, rubric_id=rubric)
    loaded = [c for c in await judged_cells(session, rows) if c.status == "ok" and judge in (None, c.judge)]
    cells = [c for c in loaded if criterion in (None, c.criterion)]
    people: dict[tuple[str, str], dict[str, float | None]] = defaultdict(dict)
    if cells:
        for label in await session.scalars(queries.labelled_among(caller.project_id, {c.subject for c in cells})):
            people[label.subject_id, label.question][label.person] = label.score
            people[label.completion_id, label.question][label.person] = label.score
    rated = {}
    critiques = [c.critique for c in cells if c.critique is not None]
    if critiques:
        rated = {row[0]: row[1] - row[2] for row in await session.execute(critique_queries.ratings(critiques))}
    candidates = [
        Candidate(
            c.completion, c.subject, c.criterion, c.question, c.judge, c.revision, c.score or 0.0, c.confidence, c.vote_variance,
            rated.get(c.critique or "", 0),
        )
        for c in cells
    ]  # fmt: skip
    said = {key: [s for s in own.values() if s is not None] for key, own in people.items()}
    found: list[tuple[float, Candidate, list[Why]]] = []
    labelled = 0
    for cell, why in zip(candidates, reasons(candidates, said, audit_share, seed), strict=True):
        own = people.get((cell.subject, cell.question), {})
        disputed = len(said.get((cell.subject, cell.question), ())) > 1 and any(w.type == "disagreement" for w in why)
        done = person in own if person is not None else bool(own) and not disputed
        labelled += done
        kept = [w for w in why if reason in (None, w.type)]
        if not done and kept:
            found.append((priority(kept), cell, kept))
    found.sort(key=_order)
    return _page(page, found, blind, len(candidates), labelled)


def _order(entry: tuple[float, Candidate, list[Why]]) -> tuple[float, str, str]:
    return -entry[0], entry[1].completion, entry[1].criterion


def _page(
    page: Page, found: list[tuple[float, Candidate, list[Why]]], blind: bool, cells: int, labelled: int
) -> QueueOut:
    if page.after is not None:
        kinds = [type(part) for part in page.after]
        if kinds not in ([float, str, str], [int, str, str]):
            raise Invalid.at(
                "/page_token", "invalid_page_token", "the page_token is not one of this list; start without it"
            )
        found = [entry for entry in found if _order(entry) > tuple(page.after)]
    shown = [
        EntryOut(
            completion=cell.completion,
            subject=cell.subject,
            criterion=cell.criterion,
            judge=cell.judge,
            revision=cell.revision,
            score=None if blind else cell.score,
            confidence=None if blind else cell.confidence,
            priority=urgency,
            reasons=[
                WhyOut(type=w.type, value=None if blind else w.value, message=None if blind else w.message) for w in why
            ],
        )
        for urgency, cell, why in found[: page.limit]
    ]
    token = encode_token(_order(found[page.limit - 1])) if len(found) > page.limit else None
    return QueueOut(data=shown, next_page_token=token, cells=cells, labelled=labelled)
