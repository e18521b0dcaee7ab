"""What is decided about calibrations."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from service.calibrations.schemas import CalibrationIn, QuestionReport
from service.db.queries import calibrations as queries
from service.db.queries import labels as label_queries
from service.db.tables import Calibration, Judge
from service.domain.calibration import MIN_LABELS, Curves, Method, Observation, TooFewLabels, fit_curves, report_of
from service.domain.ids import new_id
from service.domain.scoring import mean
from service.errors import Invalid, NotFound
from service.labelled import JudgedCell, Labelled, judged_cells, load_labelled, newest_of
from service.operation import Caller


async def judge_of(session: AsyncSession, project_id: str, judge_id: str, *, lock: bool = False) -> Judge:
    """A judge of the project, or 404."""
    found = await session.scalar((queries.locked if lock else queries.judge)(project_id, judge_id))
    if found is None:
        raise NotFound(f"there is no judge '{judge_id}'")
    return found


async def calibrate(session: AsyncSession, caller: Caller, judge_id: str, body: CalibrationIn) -> Calibration:
    """Fit and store the next version."""
    judge = await judge_of(session, caller.project_id, judge_id, lock=True)
    revision = body.revision or judge.revision
    if revision > judge.revision:
        message = f"judge '{judge_id}' has {judge.revision} revisions; give one of them, or none for the newest"
        raise Invalid.at("/revision", "not_found", message)
    options = body.model_dump(include={"blind", "persons"}, exclude_none=True)
    curves, labels = Curves(judge={}), 0
    report: dict[str, Any] = {"judge_report": {}, "criteria": []}
    if body.method != "none":
        loaded = await load_labelled(session, caller.project_id, blind=body.blind, persons=body.persons)
        observed = observations_of(loaded, judge_id, revision)
        labels = len(observed)
        try:
            curves, report = await asyncio.to_thread(_fit, observed, body.method)
        except TooFewLabels as error:
            raise Invalid.at("/method", "too_few_labels", str(error)) from None
    row = Calibration(
        id=new_id("calibration"),
        project_id=caller.project_id,
        judge_id=judge_id,
        revision=revision,
        version=(await session.scalar(queries.last_version(judge_id)) or 0) + 1,
        method=body.method,
        labels=labels,
        curves=curves.model_dump(mode="json"),
        report={**report, "options": options},
        author=caller.key_id,
    )
    session.add(row)
    await session.flush()
    await session.refresh(row)
    return row


Observed = list[tuple[Observation, JudgedCell]]


def observations_of(loaded: Sequence[Labelled], judge_id: str, revision: int) -> Observed:
    """The labelled cells of a judge revision that state a confidence; of several about one text the newest, people by their mean."""
    found = []
    for one in loaded:
        cell = newest_of(one.cells, judge_id, revision)
        if cell is None or cell.stated is None or cell.source is None or cell.score is None:
            continue
        truth = mean(one.people.values())
        found.append((Observation(one.question, cell.source, cell.stated, cell.score, truth), cell))
    return found


def _fit(observed: Observed, method: Method) -> tuple[Curves, dict[str, Any]]:
    """Curves, and what is said about them. Away from the event loop: thousands of labels take a while."""
    curves = fit_curves([one for one, _ in observed], method)
    by_source: dict[str, list[Observation]] = defaultdict(list)
    by_question: dict[tuple[str, str], Observed] = defaultdict(list)
    for one, cell in observed:
        by_source[one.source].append(one)
        by_question[one.question, one.source].append((one, cell))
    criteria = [
        QuestionReport(
            question=question,
            rubric=own[-1][1].rubric,
            criterion=own[-1][1].criterion,
            source=source,
            own_curve=source in curves.questions.get(question, {}),
            report=report_of([one for one, _ in own], method),
        ).model_dump(mode="json")
        for (question, source), own in sorted(by_question.items())
    ]
    judge = {
        source: report_of(own, method).model_dump(mode="json")
        for source, own in sorted(by_source.items())
        if len(own) >= MIN_LABELS
    }
    return curves, {"judge_report": judge, "criteria": criteria}


async def calibration_of(session: AsyncSession, project_id: str, judge_id: str, name: str) -> Calibration:
    """A judge's calibration by id or version number, or 404."""
    statement = queries.of_judge(project_id, judge_id)
    number = int(name) if name.isascii() and name.isdigit() and len(name) < 10 else None
    column, value = (Calibration.version, number) if number is not None else (Calibration.id, name)
    row = await session.scalar(statement.where(column == value))
    if row is None:
        raise NotFound(f"judge '{judge_id}' has no calibration '{name}'")
    return row


async def in_use(session: AsyncSession, judge: Judge) -> set[str]:
    """The calibration that the next job of this judge pins; none if it is `none`."""
    rows = await session.scalars(queries.latest({judge.id: judge.revision}))
    return {row.id for row in rows if row.method != "none"}


async def graded_by_both(
    session: AsyncSession, project: str, judges: tuple[str, str], rubric: str | None, criterion: str | None
) -> list[Labelled]:
    """The questions that two judges have both been asked about a text, whether people have answered them or not."""
    found: dict[tuple[str, str], Labelled] = {}
    subjects = label_queries.graded_by_both(project, *judges)
    for cell in await judged_cells(session, label_queries.graded(project, subjects)):
        if rubric in (None, cell.rubric) and criterion in (None, cell.criterion):
            own = Labelled(cell.subject, cell.question, cell.rubric, cell.criterion)
            found.setdefault((cell.subject, cell.question), own).cells.append(cell)
    return [found[key] for key in sorted(found)]
