"""Stored completions as a job's candidates (`algorithm.stored` of rejection sampling), checked and pinned at submit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.queries import gradings as grading_queries
from service.db.queries import jobs as job_queries
from service.domain.grading import GRADING_TERMINAL
from service.domain.job import JobSpec
from service.domain.job_state import TERMINAL
from service.domain.pinned import ANY_CATEGORY
from service.domain.rejection import RejectionSamplingConfig, StoredSource
from service.errors import Invalid

PLACE = "/algorithm/stored"


def stored_of(spec: JobSpec) -> StoredSource | None:
    """The source, where the algorithm has one."""
    return spec.algorithm.stored if isinstance(spec.algorithm, RejectionSamplingConfig) else None


async def pin_stored(
    session: AsyncSession, project: str, spec: JobSpec, pinned: dict[str, Any]
) -> dict[str, tuple[str, str]]:
    """Put the source into what the job has pinned; the judges and reward models that its prompts' own criteria name.

    Only what has ended does not change any more: 422 for a source that is still at work, that has no completions, or whose prompts
    have no rubric in the job.
    """
    source = stored_of(spec)
    if source is None:
        return {}
    if source.job is not None:
        job = await session.scalar(job_queries.by_id(project, source.job))
        if job is None:
            raise Invalid.at(f"{PLACE}/job", "not_found", f"there is no job '{source.job}'")
        _require_ended(f"{PLACE}/job", job.status, job.status in TERMINAL)
        purpose = source.purpose or ("evaluation" if job.algorithm == "evaluate" else "train")
        what: dict[str, Any] = {"job": job.id, "purpose": purpose}
        statement = grading_queries.has_completions(job_id=job.id, purpose=purpose)
        outside = grading_queries.outside_categories(pinned["rubric"], job=job.id, purpose=purpose)
        found = grading_queries.NAMED_BY_JOB, {"job_id": job.id, "purpose": purpose}
    else:
        grading = await session.scalar(grading_queries.by_id(project, source.grading or ""))
        if grading is None:
            raise Invalid.at(f"{PLACE}/grading", "not_found", f"there is no grading '{source.grading}'")
        _require_ended(f"{PLACE}/grading", grading.status, grading.status in GRADING_TERMINAL)
        what = {"grading": grading.id}
        statement = grading_queries.has_completions(grading_id=grading.id)
        outside = grading_queries.outside_categories(pinned["rubric"], grading=grading.id)
        found = grading_queries.NAMED_BY_GRADING, {"source_id": grading.id}
    if await session.scalar(statement) is None:
        raise Invalid.at(PLACE, "empty", "there are no such completions")
    await _require_rubrics(session, pinned["rubric"], outside)
    pinned["stored"] = what
    return dict.fromkeys(await session.scalars(*found), (PLACE, "a stored completion's prompt"))


def _require_ended(place: str, status: str, ended: bool) -> None:
    if not ended:
        raise Invalid.at(place, "not_ended", f"it is {status} and has more completions to come; wait for its end")


async def _require_rubrics(session: AsyncSession, names: Mapping[str, str], outside: Any) -> None:
    if ANY_CATEGORY in names:
        return
    for category, count in await session.execute(outside.limit(1)):
        what = "no category" if category is None else f"the category '{category}'"
        message = (
            f"the prompts of {count} completions have {what}, for which no rubric is named; name one, or one for '*'"
        )
        raise Invalid.at("/rubric", "no_rubric", message)
