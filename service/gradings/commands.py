"""What is decided about gradings: what is graded by what, pinned when it is asked for; and their end by a person's wish."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from service.budgets import require_prices
from service.db.queries import grading_items as item_queries
from service.db.queries import gradings as queries
from service.db.queries import jobs as job_queries
from service.db.tables import Grading
from service.domain.grading import TEXTS_PER_ROW, GradingSpec
from service.domain.ids import new_id
from service.domain.inherited import JudgeFacts, first_in_rows, own_votes
from service.errors import Invalid, NotFound
from service.gradings.coverage import require_versions
from service.gradings.texts import GivenTexts
from service.gradings.versions import Versions, check_options, pin_versions
from service.operation import Caller
from service.pins import facts_of, pin_graders, pin_snapshot, require_askable

REPORTED = 100


async def create_grading(session: AsyncSession, caller: Caller, spec: GradingSpec) -> Grading:
    """Check and pin everything that it names, and queue it. Datasets and jobs are read by the worker."""
    project, grading_id = caller.project_id, new_id("grading")
    resolved: dict[str, Any] = {"rubric": None, "judges": {}, "local_judges": {}, "models": {}}
    aggregation = spec.aggregation
    versions: Versions | None = None
    if spec.rubric is not None:
        versions = await pin_versions(session, project, spec.rubric, spec.aggregation)
        resolved.update(versions.resolved)
        aggregation = versions.aggregation
    resolved["aggregation"] = aggregation.model_dump(exclude_none=True)
    source, named = await _source(session, project, spec)
    if versions is not None:
        await require_versions(session, versions.names, spec, source)
    given = None
    if spec.texts is not None:
        assert versions is not None
        given = GivenTexts(grading_id, versions)
        for position, item in enumerate(spec.texts):
            given.add(item.prompt, item.text, item.group, f"/texts/{position}/prompt")
        named = given.named
    if versions is not None and not spec.reuse_cells:
        resolved.update(await pin_graders(session, project, versions.contents, named=named))
        _require_registered(resolved["models"])
        judges = await facts_of(session, resolved["judges"])
        resolved["judge_votes"] = own_votes(judges)
        if spec.votes is not None:
            versions = versions.asked_at_least(spec.votes, own_votes(judges))
            resolved.update(versions.resolved, votes=spec.votes)
            judges = {name: replace(facts, votes=max(facts.votes, spec.votes)) for name, facts in judges.items()}
        resolved["fresh"] = spec.fresh
        require_askable(versions.contents, judges)
        for version in versions.versions.values():
            check_options(version.aggregation, [version.content.criteria], own_votes(judges))
        if given is not None:
            given.require_askable(judges)
        await _require_prompts_askable(session, spec, source, judges)
        await require_prices(session, spec.limits, resolved["judges"], resolved["local_judges"])
        resolved["limits"] = spec.limits.model_dump()
    grading = queued(grading_id, project, source, resolved, reuse_cells=spec.reuse_cells)
    grading.cells = given.cells if given is not None else None
    session.add(grading)
    await session.flush()
    if given is not None:
        await given.store(session, grading)
    if spec.completions is not None:
        split = item_queries.split_by(versions.names if versions is not None else None)
        values = {"grading_id": grading_id, "project_id": project, "ids": spec.completions}
        await session.execute(item_queries.ADD_COMPLETIONS, {**values, **split})
    await session.execute(queries.wake(grading_id))
    await session.refresh(grading)
    return grading


def _require_registered(models: dict[str, Any]) -> None:
    """A job waits for a model that is still being registered; a grading would give cells that failed."""
    for model_id, pinned in models.items():
        if pinned["sha256"] is None:
            message = f"model '{model_id}' is still being registered; grade when its status is ready"
            raise Invalid.at("/rubric", "model_registering", message)


def queued(
    grading_id: str,
    project_id: str,
    source: dict[str, Any],
    resolved: dict[str, Any],
    *,
    purpose: str = "grading",
    reuse_cells: bool = False,
) -> Grading:
    """A row that a worker may claim."""
    return Grading(
        id=grading_id,
        project_id=project_id,
        purpose=purpose,
        status="queued",
        source=source,
        resolved=resolved,
        reuse_cells=reuse_cells,
        expanded=0,
        planned=False,
        done=0,
        failed=0,
        fence=0,
        failures=0,
    )


async def _source(
    session: AsyncSession, project: str, spec: GradingSpec
) -> tuple[dict[str, Any], dict[str, tuple[str, str]]]:
    """What is stored and shown of the source, and the judges and reward models that prompts' own criteria name, with place and who
    needs them."""
    if spec.texts is not None:
        return {"texts": len(spec.texts)}, {}
    if spec.completions is not None:
        await _require_completions(session, project, spec.completions)
        found = await session.scalars(queries.NAMED_BY_COMPLETIONS, {"ids": spec.completions})
        return {"completions": len(spec.completions)}, dict.fromkeys(found, ("/completions", "a completion's prompt"))
    if spec.dataset is not None:
        snapshot, kind = await pin_snapshot(session, project, spec.dataset, tuple(TEXTS_PER_ROW), "/dataset")
        return {"dataset": snapshot.model_dump(), "kind": kind}, {}
    if spec.job is not None:
        job = await session.scalar(job_queries.by_id(project, spec.job))
        if job is None:
            raise Invalid.at("/job", "not_found", f"there is no job '{spec.job}'")
        purpose = spec.purpose or ("evaluation" if job.algorithm == "evaluate" else "train")
        if await session.scalar(queries.has_completions(job_id=job.id, purpose=purpose)) is None:
            raise Invalid.at("/job", "empty", f"job '{job.id}' has no completions of purpose '{purpose}'")
        rewards = [model for model, pinned in job.resolved.get("models", {}).items() if pinned["kind"] == "reward"]
        named = dict.fromkeys([*job.resolved["judges"], *rewards], ("/job", "a prompt of the job"))
        return {"job": job.id, "purpose": purpose}, named
    assert spec.grading is not None
    if await session.scalar(queries.by_id(project, spec.grading)) is None:
        raise Invalid.at("/grading", "not_found", f"there is no grading '{spec.grading}'")
    if await session.scalar(queries.has_completions(grading_id=spec.grading)) is None:
        raise Invalid.at("/grading", "empty", f"grading '{spec.grading}' has no completions yet")
    found = await session.scalars(queries.NAMED_BY_GRADING, {"source_id": spec.grading})
    return {"grading": spec.grading}, dict.fromkeys(found, ("/grading", "a prompt of the grading"))


async def _require_prompts_askable(
    session: AsyncSession, spec: GradingSpec, source: dict[str, Any], judges: Mapping[str, JudgeFacts]
) -> None:
    """422 at the source for stored completions whose prompts bring along what a judge cannot be asked as it is now."""
    if spec.completions is not None:
        rows = await session.execute(queries.JUDGED_BY_COMPLETIONS, {"ids": spec.completions})
    elif spec.job is not None:
        rows = await session.execute(queries.JUDGED_BY_JOB, {"source_id": spec.job, "purpose": source["purpose"]})
    elif spec.grading is not None:
        rows = await session.execute(queries.JUDGED_BY_GRADING, {"source_id": spec.grading})
    else:
        return
    found = first_in_rows((("a prompt's own criterion", *asked) for asked in rows), judges)
    if found is not None:
        raise Invalid.at(f"/{spec.source}", "contradiction", f"{found[0]} as its judge is now: {found[1]}")


async def _require_completions(session: AsyncSession, project: str, ids: Sequence[str]) -> None:
    known = set(await session.scalars(queries.known_completions(project, ids)))
    faults = [
        {"pointer": f"/completions/{position}", "code": "not_found", "message": f"there is no completion '{name}'"}
        for position, name in enumerate(ids)
        if name not in known
    ]
    if faults:
        raise Invalid.of(faults[:REPORTED])


async def load(session: AsyncSession, project_id: str, grading_id: str) -> Grading:
    """The grading as it is now; 404 if it is not one of the project's."""
    statement = queries.by_id(project_id, grading_id).execution_options(populate_existing=True)
    grading = await session.scalar(statement)
    if grading is None:
        raise NotFound(f"there is no grading '{grading_id}'")
    return grading


async def cancel(session: AsyncSession, grading: Grading) -> Grading:
    """End it at once and for good; what is finished stays readable. One that has ended stays as it is."""
    if (await session.execute(queries.end(grading.id, "cancelled"))).first() is not None:
        for statement in queries.leftovers(grading.id):
            await session.execute(statement)
    return await load(session, grading.project_id, grading.id)
