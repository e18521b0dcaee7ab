"""What requests about stored completions name, as it is now: their source, the versions that they were graded by, datasets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.queries import gradings as grading_queries
from service.db.queries import jobs as job_queries
from service.db.queries import revisions as queries
from service.db.queries.rubrics import these_versions
from service.db.tables import Completion, Grading, Job
from service.domain.pinned import version_name
from service.domain.revision_request import StoredCompletions
from service.domain.rubric import RubricContent
from service.errors import Invalid

REPORTED = 100


async def find_source(session: AsyncSession, project: str, spec: StoredCompletions) -> tuple[dict[str, Any], list[Any]]:
    """What is stored and shown of the source, and the conditions that its completions meet; 422 for one that has none."""
    if spec.completions is not None:
        known = set(await session.scalars(grading_queries.known_completions(project, spec.completions)))
        faults = [
            {"pointer": f"/completions/{position}", "code": "not_found", "message": f"there is no completion '{name}'"}
            for position, name in enumerate(spec.completions)
            if name not in known
        ]
        if faults:
            raise Invalid.of(faults[:REPORTED])
        return {"completions": len(spec.completions)}, queries.source_of(completions=spec.completions)
    if spec.job is not None:
        job = await session.scalar(job_queries.by_id(project, spec.job))
        if job is None:
            raise Invalid.at("/job", "not_found", f"there is no job '{spec.job}'")
        purpose = spec.purpose or _purpose_of(job)
        conditions = queries.source_of(job=job.id, purpose=purpose)
        await _require_some(session, conditions, "/job", f"job '{job.id}' has no completions of purpose '{purpose}'")
        return {"job": job.id, "purpose": purpose}, conditions
    grading = await session.scalar(grading_queries.by_id(project, spec.grading or ""))
    if grading is None:
        raise Invalid.at("/grading", "not_found", f"there is no grading '{spec.grading}'")
    conditions = queries.source_of(grading=grading.id)
    await _require_some(session, conditions, "/grading", f"grading '{grading.id}' has no completions yet")
    return {"grading": grading.id}, conditions


def _purpose_of(job: Job) -> str:
    return "evaluation" if job.algorithm == "evaluate" else "train"


async def _require_some(session: AsyncSession, conditions: Sequence[Any], place: str, message: str) -> None:
    if await session.scalar(select(Completion.id).where(*conditions).limit(1)) is None:
        raise Invalid.at(place, "empty", message)


async def versions_of(session: AsyncSession, conditions: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """The versions that these completions were graded by, with their contents, by name."""
    pins = [(rubric, number) for rubric, number in await session.execute(queries.versions_in(conditions))]
    found = list(await session.scalars(these_versions(pins))) if pins else []
    return {
        version_name(v.rubric_id, v.version): {
            "id": v.rubric_id, "version": v.version, "hash": v.hash, "content": v.graded_by,
        }
        for v in sorted(found, key=lambda v: (v.rubric_id, v.version))
    }  # fmt: skip


def contents_of(versions: dict[str, dict[str, Any]]) -> list[RubricContent]:
    """Their contents."""
    return [RubricContent.model_validate(version["content"]) for version in versions.values()]


async def named_by_prompts(session: AsyncSession, spec: StoredCompletions, source: dict[str, Any]) -> list[str]:
    """Judges and reward models that the prompts' own criteria name."""
    if spec.completions is not None:
        return list(await session.scalars(grading_queries.NAMED_BY_COMPLETIONS, {"ids": spec.completions}))
    if spec.job is not None:
        found = {"job_id": source["job"], "purpose": source["purpose"]}
        return list(await session.scalars(grading_queries.NAMED_BY_JOB, found))
    return list(await session.scalars(grading_queries.NAMED_BY_GRADING, {"source_id": spec.grading}))


def queued(request_id: str, project_id: str, purpose: str, source: dict[str, Any], resolved: dict[str, Any]) -> Grading:
    """A row that a worker may claim."""
    return Grading(
        id=request_id,
        project_id=project_id,
        purpose=purpose,
        status="queued",
        source=source,
        resolved=resolved,
        reuse_cells=False,
        expanded=0,
        planned=False,
        done=0,
        failed=0,
        fence=0,
        failures=0,
    )
