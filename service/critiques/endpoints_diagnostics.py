"""`/v1/rubrics/{id}/versions/{n}/diagnostics`: what a version's criteria do, and what somebody may want to change."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.queries import labels as queries
from service.db.queries import rubrics as rubric_queries
from service.db.tables import Rubric, RubricVersion
from service.deps import CallerDep, SessionDep
from service.domain.agreement import Comparison, Level, Statistic, among, compare
from service.domain.diagnostics import Diagnostics, Graded, Weights, diagnose
from service.domain.grader import JudgeGrader
from service.domain.identity import question_identity
from service.domain.label import values_of
from service.domain.rubric import Criterion, RubricContent
from service.errors import NotFound
from service.labelled import Labelled, load_labelled
from service.operation import Caller, needs, router

diagnostics = router("rubrics")

NEWEST = 2000
"""Completions that are looked at."""

LEVELS: dict[str, Level] = {"boolean": "nominal", "nominal": "nominal", "ordinal": "ordinal", "unit": "interval"}


async def _version(session: AsyncSession, caller: Caller, rubric_id: str, name: str) -> RubricVersion:
    head = rubric_queries.head(caller.project_id, rubric_id).with_only_columns(Rubric.id)
    if await session.scalar(head) is None:
        raise NotFound(f"there is no rubric '{rubric_id}'")
    found = await session.scalar(rubric_queries.named(rubric_id, name))
    if found is None:
        raise NotFound(f"rubric '{rubric_id}' has no version or alias '{name}'")
    return found


@diagnostics.get("/v1/rubrics/{rubric_id}/versions/{version}/diagnostics", openapi_extra=needs("jobs:read"))
async def get_diagnostics(
    rubric_id: str,
    version: str,
    session: SessionDep,
    caller: CallerDep,
    job: str | None = None,
    grading: str | None = None,
) -> Diagnostics:
    """Discrimination, saturation, redundancy, drift, length and agreement of a version's criteria, over the newest 2,000 completions
    that it has graded; and proposals. Nothing is changed: whoever agrees with a proposal publishes a version."""
    row = await _version(session, caller, rubric_id, version)
    content = RubricContent.model_validate(row.graded_by)
    statement = queries.of_version(caller.project_id, rubric_id, row.version, NEWEST, job_id=job, grading_id=grading)
    completions = list(await session.execute(statement))[::-1]
    cells: dict[str, dict[str, tuple[float, float | None]]] = defaultdict(dict)
    failed: dict[str, set[str]] = defaultdict(set)
    if completions:
        for completion, criterion, score, confidence in await session.execute(
            queries.scores_of([found[0] for found in completions])
        ):
            if score is None:
                failed[completion].add(criterion)
            else:
                cells[completion][criterion] = (score, confidence)
    rows = [
        Graded(group, length, cells.get(name, {}), frozenset(failed.get(name, ())))
        for name, group, length in completions
    ]
    labelled = await load_labelled(session, caller.project_id)
    weights = {c.key: Weights(c.effective_weight, c.audit) for c in content.criteria}
    return await asyncio.to_thread(lambda: diagnose(rows, weights, _people(content.criteria, labelled)))


def _people(
    criteria: list[Criterion], labelled: list[Labelled]
) -> dict[str, tuple[Comparison | None, Statistic | None]]:
    """What people say on each judged criterion, against the newest cell of its judge, of whatever revision."""
    by_question: dict[str, list[Labelled]] = defaultdict(list)
    for one in labelled:
        by_question[one.question].append(one)
    found = {}
    for criterion in criteria:
        if not isinstance(criterion.grader, JudgeGrader):
            continue
        own = by_question.get(question_identity(criterion), [])
        ratings = []
        for one in own:
            scores = [c.score for c in one.cells if c.judge == criterion.grader.judge and c.score is not None]
            if scores:
                ratings.append((tuple(one.people.values()), scores[-1]))
        level = LEVELS[criterion.scale.type]
        several = [list(one.people.values()) for one in own]
        found[criterion.key] = (compare(ratings, level, values_of(criterion)), among(several, level) if own else None)
    return found
