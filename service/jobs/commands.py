"""What is decided about jobs: submit, cancel, pause, resume."""

from __future__ import annotations

import math
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from service.budgets import require_prices
from service.db.queries import jobs as queries
from service.db.queries import models as model_queries
from service.db.tables import Job, Model
from service.domain.algorithm import EvaluateConfig, data_kind, is_epochwise
from service.domain.base import nearest
from service.domain.dataset import Snapshot
from service.domain.ids import new_id
from service.domain.inherited import own_votes
from service.domain.job import DataSpec, JobSpec, resolved
from service.domain.job_state import TERMINAL, Event
from service.domain.rejection import RejectionSamplingConfig
from service.domain.rubric import RubricContent
from service.domain.spending import JudgeBudget, Spent
from service.errors import Conflict, Invalid, NotFound
from service.jobs.aggregation import aggregations, check_options, refuse_training_options, with_aggregation
from service.jobs.revisions import named_by_revision, pin_revision
from service.jobs.schemas import LimitsPatch
from service.jobs.stored import pin_stored
from service.operation import Caller
from service.pins import (
    RubricPins,
    facts_of,
    pin_graders,
    pin_snapshot,
    require_askable,
    require_rows_askable,
    require_rubrics,
)


async def submit_job(session: AsyncSession, caller: Caller, spec: JobSpec) -> Job:
    """Check everything that is cheap to check, pin everything that could move, and queue the job."""
    spec = resolved(spec)
    refuse_training_options(spec)
    project = caller.project_id
    model = await _model(session, project, spec.policy.model, "/policy/model", spec.algorithm.type == "reward_model")
    data: dict[str, Snapshot] = {}
    for kind in DataSpec.model_fields:
        dataset_id = getattr(spec.data, kind)
        if dataset_id is not None:
            data[kind], _ = await pin_snapshot(session, project, dataset_id, (kind,), f"/data/{kind}")
    pinned: dict[str, Any] = {"policy": {"model": model.id, "sha256": model.sha256}}
    if isinstance(spec.algorithm, EvaluateConfig) and spec.algorithm.compare_to is not None:
        other = await _model(session, project, spec.algorithm.compare_to.model, "/algorithm/compare_to/model")
        pinned["compare_to"] = {"model": other.id, "sha256": other.sha256}
    rubrics = RubricPins()
    if spec.rubric is not None:
        pinned["rubric"] = await rubrics.add(session, project, spec.rubric, "/rubric")
        if "prompts" in data:
            await require_rubrics(session, pinned["rubric"], data["prompts"], "/rubric")
        _check_floors(spec, list(rubrics.contents.values()))
    if spec.evaluation is not None and spec.evaluation.prompts is not None:
        place = "/evaluation/prompts"
        data["evaluation"], _ = await pin_snapshot(session, project, spec.evaluation.prompts, ("prompts",), place)
        pinned["evaluation_rubric"], place = pinned.get("rubric"), "/rubric"
        if spec.evaluation.rubric is not None:
            place = "/evaluation/rubric"
            pinned["evaluation_rubric"] = await rubrics.add(session, project, spec.evaluation.rubric, place)
        await require_rubrics(session, pinned["evaluation_rubric"], data["evaluation"], place)
    if spec.evaluation is not None and spec.evaluation.rows is not None:
        kind = spec.evaluation.rows
        held_out, place = getattr(spec.evaluation, kind), f"/evaluation/{kind}"
        data["held_out"], _ = await pin_snapshot(session, project, held_out, (kind,), place)
    options, trained = aggregations(spec, rubrics.contents), sorted(set(pinned.get("rubric", {}).values()))
    pinned["rubrics"] = {
        name: {**version, "aggregation": options[name].model_dump()} for name, version in rubrics.versions.items()
    }
    spec = with_aggregation(spec, [options[name] for name in trained])
    places = {"prompts": "/data/prompts", "evaluation": "/evaluation/prompts"}
    rows = {place: data[kind] for kind, place in places.items() if kind in data}
    contents = list(rubrics.contents.values())
    named = {**named_by_revision(spec), **await pin_stored(session, project, spec, pinned)}
    pinned.update(await pin_graders(session, project, contents, rows if contents else {}, named))
    judges = await facts_of(session, pinned["judges"])
    require_askable(rubrics.contents.values(), judges)
    await require_rows_askable(session, rows if rubrics.contents else {}, judges)
    pinned["judge_votes"] = own_votes(judges)
    for name in trained:
        check_options(spec, options[name], rubrics.contents[name], pinned["judge_votes"])
    spec = await pin_revision(session, caller, spec, pinned)
    await require_prices(session, spec.limits, pinned["judges"], pinned["local_judges"])
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


async def _model(session: AsyncSession, project: str, model_id: str, place: str, may_score: bool = False) -> Model:
    """A model that writes completions (or one that scores them, where a job starts from one), ready or being registered."""
    model = await session.scalar(model_queries.model(project, model_id))
    if model is None:
        raise Invalid.at(place, "not_found", f"there is no model '{model_id}'")
    if model.kind == "reward" and not may_score:
        message = f"model '{model.id}' is a reward model: it scores completions and cannot write them"
        raise Invalid.at(place, "wrong_kind", message)
    if model.status == "failed":
        raise Invalid.at(place, "model_invalid", f"model '{model.id}' failed to register: {model.error}")
    return model


def _check_floors(spec: JobSpec, contents: list[RubricContent]) -> None:
    """A floor on a criterion that no rubric has would keep nothing, however good."""
    if not isinstance(spec.algorithm, RejectionSamplingConfig):
        return
    known = {criterion.key for content in contents for criterion in content.criteria}
    for key in spec.algorithm.floors:
        if key not in known and not key.startswith("prompt."):
            message = f"the rubric has no criterion '{key}'{nearest(key, known)}"
            raise Invalid.at(f"/algorithm/floors/{key}", "not_found", message)


def _steps(spec: JobSpec, data: dict[str, Snapshot]) -> int:
    if is_epochwise(spec.algorithm) and spec.training.steps is None:
        rows, batch, epochs = data[data_kind(spec.algorithm)].rows, spec.training.batch_size, spec.training.epochs
        assert batch is not None
        assert epochs is not None
        return max(1, math.ceil(rows * epochs / batch))
    return spec.training.steps or 0


async def load(session: AsyncSession, project_id: str, job_id: str) -> Job:
    """The job as it is now; 404 if it is not one of the project's."""
    statement = queries.by_id(project_id, job_id).execution_options(populate_existing=True)
    job = await session.scalar(statement)
    if job is None:
        raise NotFound(f"there is no job '{job_id}'")
    return job


async def change_limits(session: AsyncSession, job: Job, changes: LimitsPatch) -> Job:
    """Other limits for a live job. 422 for one that is reached already: the job would pause again at once."""
    if job.status in TERMINAL:
        raise _ended(job)
    given = {name: getattr(changes, name) for name in changes.model_fields_set}
    limits = JudgeBudget.model_validate({**(job.spec.get("limits") or {}), **given})
    spent = Spent.model_validate(job.spent or {})
    for name, unit in (("judge_calls", "calls"), ("judge_cost_usd", "USD")):
        limit, taken = getattr(limits, name), getattr(spent, name) or 0
        if name in given and limit is not None and limit <= taken:
            message = f"the job has taken {taken:g} {unit} already; give a higher limit, or null for none"
            raise Invalid.at(f"/limits/{name}", "limit_reached", message)
    await require_prices(session, limits, job.resolved["judges"], job.resolved.get("local_judges", {}))
    if (await session.execute(queries.set_limits(job.id, limits.model_dump()))).first() is None:
        raise _ended(await load(session, job.project_id, job.id))
    return await load(session, job.project_id, job.id)


def _ended(job: Job) -> Conflict:
    return Conflict(f"the job is {job.status}, and that never changes", code="job_terminal")


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
            raise _ended(job)
        if job.status == "finalizing" and event == "pause":
            raise Conflict("the job is writing its last checkpoint and cannot pause any more", code="job_finalizing")
    raise Conflict(
        f"the job is {job.status} and changes faster than this request; try again", headers={"Retry-After": "1"}
    )
