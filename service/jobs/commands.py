"""What is decided about jobs: submit, cancel, pause, resume."""

from __future__ import annotations

import math
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.queries import datasets as dataset_queries
from service.db.queries import jobs as queries
from service.db.queries import models as model_queries
from service.db.queries import rubrics as rubric_queries
from service.db.tables import Job, Judge
from service.domain.algorithm import GrpoConfig, OnPolicyConfig, data_kind, is_epochwise
from service.domain.dataset import Snapshot
from service.domain.ids import new_id
from service.domain.job import DataSpec, JobSpec, resolved
from service.domain.job_state import TERMINAL, Event
from service.domain.rubric import DEFAULT_AGGREGATION, Aggregation, RubricContent, RubricRef
from service.errors import Conflict, Invalid, NotFound
from service.operation import Caller


async def submit_job(session: AsyncSession, caller: Caller, spec: JobSpec) -> Job:
    """Check everything that is cheap to check, pin everything that could move, and queue the job."""
    spec = resolved(spec)
    project = caller.project_id
    model = await session.scalar(model_queries.model(project, spec.policy.model))
    if model is None:
        raise Invalid.at("/policy/model", "not_found", f"there is no model '{spec.policy.model}'")
    if model.status == "failed":
        raise Invalid.at("/policy/model", "model_invalid", f"model '{model.id}' failed to register: {model.error}")
    data: dict[str, Snapshot] = {}
    for kind in DataSpec.model_fields:
        dataset_id = getattr(spec.data, kind)
        if dataset_id is not None:
            data[kind] = await _snapshot(session, project, dataset_id, kind, f"/data/{kind}")
    pinned: dict[str, Any] = {"policy": {"model": model.id, "sha256": model.sha256}}
    contents: list[RubricContent] = []
    if spec.rubric is not None:
        pinned["rubric"], content = await _pin_rubric(session, project, spec.rubric, "/rubric")
        contents.append(content)
        spec = _with_aggregation(spec, content)
    if spec.evaluation is not None:
        data["evaluation"] = await _snapshot(
            session, project, spec.evaluation.prompts, "prompts", "/evaluation/prompts"
        )
        pinned["evaluation_rubric"] = pinned.get("rubric")
        if spec.evaluation.rubric is not None:
            place = "/evaluation/rubric"
            pinned["evaluation_rubric"], content = await _pin_rubric(session, project, spec.evaluation.rubric, place)
            contents.append(content)
    pinned["judges"] = await _pin_judges(session, project, contents)
    pinned["data"] = {kind: snapshot.model_dump() for kind, snapshot in data.items()}
    values = {
        "id": new_id("job"),
        "project_id": project,
        "name": spec.name,
        "algorithm": spec.algorithm.type,
        "spec": spec.model_dump(mode="json"),
        "resolved": pinned,
        "metadata": dict(spec.metadata),
        "priority": spec.priority,
        "processes": spec.resources.processes,
        "progress_steps": _steps(spec, data),
    }
    row = (await session.execute(queries.submit(values))).one()
    return await load(session, project, row.id)


def _with_aggregation(spec: JobSpec, content: RubricContent) -> JobSpec:
    """The job's options over the author's over the defaults, so that the stored spec says what happened."""
    if not isinstance(spec.algorithm, OnPolicyConfig):
        return spec
    author = content.aggregation.over(DEFAULT_AGGREGATION)
    if isinstance(spec.algorithm, GrpoConfig):
        author = Aggregation(weighting="uniform").over(author)
    aggregation = spec.algorithm.aggregation.over(author)
    return spec.model_copy(update={"algorithm": spec.algorithm.model_copy(update={"aggregation": aggregation})})


def _steps(spec: JobSpec, data: dict[str, Snapshot]) -> int:
    if is_epochwise(spec.algorithm) and spec.training.steps is None:
        rows, batch, epochs = data[data_kind(spec.algorithm)].rows, spec.training.batch_size, spec.training.epochs
        assert batch is not None
        assert epochs is not None
        return max(1, math.ceil(rows * epochs / batch))
    return spec.training.steps or 0


async def _snapshot(session: AsyncSession, project: str, dataset_id: str, kind: str, place: str) -> Snapshot:
    dataset = await session.scalar(dataset_queries.head(project, dataset_id))
    if dataset is None:
        raise Invalid.at(place, "not_found", f"there is no dataset '{dataset_id}'")
    if dataset.kind != kind:
        raise Invalid.at(place, "wrong_kind", f"dataset '{dataset_id}' holds {dataset.kind}; {kind} are needed here")
    if dataset.rows == 0:
        raise Invalid.at(place, "empty_dataset", f"dataset '{dataset_id}' has no published rows; post some first")
    return Snapshot(
        dataset=dataset.id, batches=dataset.batches, rows=dataset.rows, last_seq=dataset.last_seq, hash=dataset.hash
    )


async def _pin_rubric(
    session: AsyncSession, project: str, ref: RubricRef, place: str
) -> tuple[dict[str, Any], RubricContent]:
    head = await session.scalar(rubric_queries.head(project, ref.id))
    if head is None:
        raise Invalid.at(f"{place}/id", "not_found", f"there is no rubric '{ref.id}'")
    version = await session.scalar(rubric_queries.named(head.id, ref.version))
    if version is None:
        message = (
            f"rubric '{ref.id}' has no version or alias '{ref.version}'; the latest version is {head.latest_version}"
        )
        raise Invalid.at(f"{place}/version", "not_found", message)
    pinned = {"id": head.id, "version": version.version, "hash": version.hash, "category": head.category}
    return {**pinned, "content": version.graded_by}, RubricContent.model_validate(version.graded_by)


async def _pin_judges(session: AsyncSession, project: str, contents: list[RubricContent]) -> dict[str, int]:
    wanted = sorted({judge for content in contents for judge in content.judge_ids()})
    found = await session.execute(
        select(Judge.id, Judge.revision).where(Judge.project_id == project, Judge.id.in_(wanted))
    )
    pinned: dict[str, int] = dict(found.tuples().all())
    missing = [judge for judge in wanted if judge not in pinned]
    if missing:
        raise Invalid.at("/rubric", "not_found", f"the rubric needs the judge '{missing[0]}', which does not exist")
    return {judge: pinned[judge] for judge in wanted}


async def load(session: AsyncSession, project_id: str, job_id: str) -> Job:
    """The job as it is now; 404 if it is not one of the project's."""
    statement = queries.by_id(project_id, job_id).execution_options(populate_existing=True)
    job = await session.scalar(statement)
    if job is None:
        raise NotFound(f"there is no job '{job_id}'")
    return job


async def wish(session: AsyncSession, job: Job, event: Event, holds: frozenset[str]) -> Job:
    """Cancel, pause or resume: 200 where the wish already holds, one conditional statement where it does not.

    A move that loses a race against another is decided again on the new state.
    """
    for _ in range(5):
        moved = (await session.execute(queries.transition(event, job.id, project_id=job.project_id))).first()
        job = await load(session, job.project_id, job.id)
        if moved is not None or job.status in holds:
            return job
        if job.status in TERMINAL:
            raise Conflict(f"the job is {job.status}, and that never changes", code="job_terminal")
        if job.status == "finalizing" and event == "pause":
            raise Conflict("the job is writing its last checkpoint and cannot pause any more", code="job_finalizing")
    raise Conflict(
        f"the job is {job.status} and changes faster than this request; try again", headers={"Retry-After": "1"}
    )
