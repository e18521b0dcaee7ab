"""`try`: a few texts graded at once. A short-lived grading that a grading worker answers, and that is gone with the answer.

The request holds no connection and no transaction while it waits, only a place in the event loop.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from service.completion import CompletionOut
from service.contents.check import check, head_of
from service.db.queries import gradings as queries
from service.db.tables import CellRow, Completion, Grading, RubricVersion
from service.domain.grading import TryDraftIn, TryIn
from service.domain.ids import new_id
from service.domain.rubric import RubricContent
from service.errors import GatewayTimeout, GrapeError, Invalid, Unavailable
from service.gradings.commands import queued
from service.gradings.texts import GivenTexts
from service.gradings.versions import Versions, aggregate_by
from service.operation import Caller
from service.pins import facts_of, pin_graders, require_askable
from service.services import Services

POLL_S = 0.05
LONGEST_POLL_S = 0.5
CLAIM_S = 10.0
"""A grading worker that is there takes a `try` up within this time."""


RUBRIC = "rubric"
DRAFT = {"id": "", "version": 0}
"""What stands in the rows of a draft's try in place of a version; nothing of them is stored."""


async def try_version(
    services: Services, session: AsyncSession, caller: Caller, version: RubricVersion, body: TryIn
) -> list[CompletionOut]:
    """The texts as graded completions of one group, in their order."""
    pinned = {"id": version.rubric_id, "version": version.version, "hash": version.hash, "content": version.graded_by}
    return await _try(services, session, caller, pinned, body)


async def try_draft(services: Services, session: AsyncSession, caller: Caller, body: TryDraftIn) -> list[CompletionOut]:
    """The same by a content that is no version yet; 422 below `/content` for what publishing it would refuse."""
    await head_of(session, caller.project_id, body.rubric)
    found = await check(session, caller.project_id, body.content, body.rubric)
    pinned = {**DRAFT, "hash": found.flat.hash, "content": found.flat.model_dump(mode="json")}
    rows = await _try(services, session, caller, pinned, body)
    return [row.model_copy(update={"rubric": dict.fromkeys(DRAFT)}) for row in rows]


async def _try(
    services: Services, session: AsyncSession, caller: Caller, pinned: dict[str, Any], body: TryIn
) -> list[CompletionOut]:
    content = RubricContent.model_validate(pinned["content"])
    aggregation = aggregate_by(content, body.aggregation)
    given = GivenTexts(new_id("grading"), Versions.one(RUBRIC, content, aggregation))
    for text in body.completions:
        given.add(body.prompt, text, None, "/prompt")
    graders = await pin_graders(session, caller.project_id, [content], named=given.named)
    judges = await facts_of(session, graders["judges"])
    require_askable([content], judges)
    given.require_askable(judges)
    resolved = {"rubric": pinned, **graders, "aggregation": aggregation.model_dump(exclude_none=True)}
    grading = queued(given.grading_id, caller.project_id, {"texts": len(given.texts)}, resolved, purpose="try")
    grading.cells = given.cells
    session.add(grading)
    await session.flush()
    await given.store(session, grading)
    await session.execute(queries.wake(grading.id))
    await session.commit()
    services.send_soon()
    try:
        result = await _answer(services, session, given)
    finally:
        await session.rollback()
        await session.execute(delete(Grading).where(Grading.id == given.grading_id))
        await session.commit()
    return _shown(result)


async def _answer(services: Services, session: AsyncSession, given: GivenTexts) -> dict[str, Any]:
    """What the worker has answered; 503 if there is none, 504 if the graders have not finished."""
    started, pause = time.monotonic(), POLL_S
    limit = services.settings.grading.try_timeout_s
    columns = (Grading.status, Grading.result, Grading.error, Grading.fence, Grading.done)
    while True:
        row = (await session.execute(select(*columns).where(Grading.id == given.grading_id))).one()
        await session.commit()
        if row.status == "succeeded":
            result: dict[str, Any] = row.result
            return result
        if row.status == "failed":
            raise _failure(row.error)
        waited = time.monotonic() - started
        if row.fence == 0 and waited > min(CLAIM_S, limit):
            raise Unavailable(
                f"no grading worker has taken this up within {waited:.0f} s; start one, or look why it does not answer",
                code="no_grading_worker",
                headers={"Retry-After": "5"},
            )
        if waited > limit:
            raise GatewayTimeout(
                f"{row.done} of {given.cells} cells were graded within {limit:.0f} s; the judges are slow: try fewer texts, or "
                "POST /v1/gradings, which does not wait",
                code="judges_slow",
            )
        await asyncio.sleep(pause)
        pause = min(pause * 1.3, LONGEST_POLL_S)


def _failure(error: dict[str, Any]) -> GrapeError:
    if error["code"] == "rubric_invalid":
        return Invalid(error["message"], code=error["code"])
    return Unavailable(error["message"], code=error["code"])


def _shown(result: dict[str, Any]) -> list[CompletionOut]:
    """Rows that were never stored, shown like those that are; there is no grading to ask for later."""
    cells: dict[str, list[CellRow]] = {}
    for values in result["cells"]:
        cells.setdefault(values["completion_id"], []).append(CellRow(**{**values, "grading_id": None}))
    rows = sorted(result["completions"], key=lambda values: values["position"])
    shown = []
    for values in rows:
        index = values.pop("idx")
        row = Completion(**{**values, "index": index, "grading_id": None, "purpose": "try"})
        shown.append(CompletionOut.of(row, sorted(cells.get(row.id, []), key=lambda cell: cell.criterion)))
    return shown
