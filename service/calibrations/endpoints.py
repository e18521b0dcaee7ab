"""`/v1/judges/{id}/calibrations` and `/v1/judges/{id}/agreement`."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import Query, Response

from service.calibrations import commands
from service.calibrations.agreement import AgreementOut, agreement_of
from service.calibrations.diagram import diagram
from service.calibrations.schemas import CalibrationIn, CalibrationOut, QuestionReport
from service.db.queries import calibrations as queries
from service.db.tables import Calibration
from service.deps import CallerDep, Listing, PageDep, SessionDep
from service.domain.calibration import CurveReport
from service.errors import Invalid, NotFound
from service.labelled import load_labelled
from service.operation import needs, router

calibrations = router("calibrations")


@calibrations.post("/v1/judges/{judge_id}/calibrations", status_code=201, openapi_extra=needs("judges:write"))
async def create_calibration(
    judge_id: str, body: CalibrationIn, session: SessionDep, caller: CallerDep, response: Response
) -> CalibrationOut:
    """Fit a judge revision's confidence to people's labels. Jobs and gradings that are submitted from now on use it."""
    row = await commands.calibrate(session, caller, judge_id, body)
    response.headers["Location"] = f"/v1/judges/{judge_id}/calibrations/{row.version}"
    return await _shown(session, caller, row)


async def _shown(session: SessionDep, caller: CallerDep, row: Calibration) -> CalibrationOut:
    judge = await commands.judge_of(session, caller.project_id, row.judge_id)
    return CalibrationOut.of(row, row.id in await commands.in_use(session, judge))


@calibrations.get("/v1/judges/{judge_id}/calibrations", openapi_extra=needs("judges:read"))
async def list_calibrations(
    judge_id: str,
    session: SessionDep,
    caller: CallerDep,
    page: PageDep,
    revision: Annotated[int | None, Query(ge=1, lt=2**31)] = None,
) -> Listing[CalibrationOut]:
    """A judge's calibrations, first to last."""
    judge = await commands.judge_of(session, caller.project_id, judge_id)
    used = await commands.in_use(session, judge)
    statement = queries.of_judge(caller.project_id, judge_id)
    if revision is not None:
        statement = statement.where(Calibration.revision == revision)
    return await page.fetch(
        session,
        statement,
        [Calibration.version],
        lambda row: CalibrationOut.of(row, row.id in used),
        lambda row: [row.version],
    )


@calibrations.get("/v1/judges/{judge_id}/calibrations/{calibration}", openapi_extra=needs("judges:read"))
async def get_calibration(judge_id: str, calibration: str, session: SessionDep, caller: CallerDep) -> CalibrationOut:
    """A calibration by its number or its id."""
    await commands.judge_of(session, caller.project_id, judge_id)
    return await _shown(
        session, caller, await commands.calibration_of(session, caller.project_id, judge_id, calibration)
    )


@calibrations.get(
    "/v1/judges/{judge_id}/calibrations/{calibration}/diagram",
    openapi_extra=needs("judges:read"),
    response_class=Response,
    responses={200: {"content": {"image/svg+xml": {}}}},
)
async def get_diagram(
    judge_id: str,
    calibration: str,
    session: SessionDep,
    caller: CallerDep,
    criterion: Annotated[str | None, Query(description="one criterion; without it the judge over all of them")] = None,
    rubric: Annotated[str | None, Query(description="whose criterion, where several rubrics have the key")] = None,
    source: Annotated[str | None, Query(description="verbal, votes or logprob, where there are several")] = None,
) -> Response:
    """The reliability diagram, an SVG."""
    found = await get_calibration(judge_id, calibration, session, caller)
    what = f"{judge_id} revision {found.revision}, calibration {found.version}"
    report, question, where = _report(found, criterion, rubric, source)
    drawn = diagram(report, found.curves, question, where, f"{what}: {criterion}" if criterion else what)
    return Response(drawn, media_type="image/svg+xml")


def _report(
    found: CalibrationOut, criterion: str | None, rubric: str | None, source: str | None
) -> tuple[CurveReport, str | None, str]:
    if criterion is None:
        for name, report in found.judge_report.items():
            if source in (None, name):
                return report, None, name
        raise NotFound(f"calibration {found.version} has no curve" + (f" for confidence '{source}'" if source else ""))
    fitting: list[QuestionReport] = [
        c
        for c in found.criteria
        if c.criterion == criterion and rubric in (None, c.rubric) and source in (None, c.source)
    ]
    if not fitting:
        known = ", ".join(sorted({c.criterion for c in found.criteria})) or "none"
        raise Invalid.at(
            "/criterion", "not_found", f"no label of this calibration is on '{criterion}'; there are: {known}"
        )
    return fitting[0].report, fitting[0].question, fitting[0].source


@calibrations.get("/v1/judges/{judge_id}/agreement", openapi_extra=needs("judges:read"))
async def get_agreement(
    judge_id: str,
    session: SessionDep,
    caller: CallerDep,
    revision: Annotated[int | None, Query(ge=1, lt=2**31, description="the current one without it")] = None,
    other: Annotated[str | None, Query(alias="with", description="another judge, instead of people")] = None,
    rubric: Annotated[str | None, Query(description="only labels given for this rubric")] = None,
    criterion: str | None = None,
    blind: Annotated[bool | None, Query(description="only labels by people who had not seen the judge's")] = None,
) -> AgreementOut:
    """How far a judge agrees, criterion by criterion, with people, with itself, or (`with`) with another judge."""
    judge = await commands.judge_of(session, caller.project_id, judge_id)
    wanted = revision or judge.revision
    if wanted > judge.revision:
        raise Invalid.at("/revision", "not_found", f"judge '{judge_id}' has {judge.revision} revisions")
    second = None
    if other is not None:
        try:
            second = await commands.judge_of(session, caller.project_id, other)
        except NotFound as error:
            raise Invalid.at("/with", "not_found", error.message) from None
    if second is None:
        loaded = await load_labelled(session, caller.project_id, rubric=rubric, criterion=criterion, blind=blind)
    else:
        pair = (judge_id, second.id)
        loaded = await commands.graded_by_both(session, caller.project_id, pair, rubric, criterion)
    against = (second.id, second.revision) if second is not None else None
    return await asyncio.to_thread(agreement_of, loaded, (judge_id, wanted), against)
