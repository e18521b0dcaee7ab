"""What is decided about requests for revisions: what is revised and graded by whom, pinned when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from service.budgets import require_prices
from service.db.queries import gradings as grading_queries
from service.db.queries import revisions as queries
from service.db.tables import Grading
from service.domain.ids import new_id
from service.domain.inherited import own_votes
from service.domain.revision import PROMPT_VERSION, RevisionOptions, fills
from service.domain.revision_request import LabelSpec, RevisionSpec, StoredCompletions, with_votes
from service.errors import Invalid, NotFound
from service.operation import Caller
from service.pins import facts_of, pin_graders, require_askable
from service.revision_datasets import target
from service.revisions.pinning import REPORTED, contents_of, find_source, named_by_prompts, queued, versions_of


async def create_revision(session: AsyncSession, caller: Caller, spec: RevisionSpec) -> Grading:
    """Check and pin everything that it names, and queue it. Which completions are revised is looked up by the worker."""
    project, request_id = caller.project_id, new_id("revision")
    source, conditions = await find_source(session, project, spec)
    versions = await versions_of(session, conditions)
    contents = contents_of(versions)
    place = "/completions" if spec.completions is not None else "/job" if spec.job is not None else "/grading"
    named = dict.fromkeys(await named_by_prompts(session, spec, source), (place, "a completion's prompt"))
    if spec.reviser is not None:
        named[spec.reviser] = ("/reviser", "the request")
    graders = await pin_graders(session, project, contents, named=named)
    judges = await facts_of(session, graders["judges"])
    require_askable(contents, judges)
    votes = own_votes(judges)
    for version, content in zip(versions.values(), contents, strict=True):
        version["content"] = with_votes(content, spec.votes, votes).model_dump(mode="json")
    await require_prices(session, spec.limits, graders["judges"], graders["local_judges"])
    revision = {
        **spec.model_dump(include={"uses", "reviser", *RevisionOptions.model_fields}),
        "prompt_version": PROMPT_VERSION,
        "each": spec.completions is not None,
    }
    await _datasets(session, caller, fills(spec.uses), revision, f"revisions {request_id}")
    resolved = {
        "rubrics": versions,
        **graders,
        "judge_votes": votes,
        "limits": spec.limits.model_dump(),
        "revision": revision,
    }
    request = queued(request_id, project, queries.REVISION, source, resolved)
    return await _add(session, request, spec, queries.add_items("completions", each=True), {
        "revises": spec.revises, "pairs": "pairs_from_group" in spec.uses, "each": True, "per_group": None,
    })  # fmt: skip


async def create_labelling(session: AsyncSession, caller: Caller, spec: LabelSpec) -> Grading:
    """The same for pairs that a judge labels."""
    project, request_id = caller.project_id, new_id("labelling")
    source, conditions = await find_source(session, project, spec)
    versions = await versions_of(session, conditions)
    graders = await pin_graders(session, project, [], named={spec.judge: ("/judge", "the request")})
    await require_prices(session, spec.limits, graders["judges"], graders["local_judges"])
    labelling = {**spec.model_dump(include={"judge", "guidelines", "preferences"}), "prompt_version": PROMPT_VERSION}
    await _datasets(session, caller, {"preferences": True}, labelling, f"labels {request_id}")
    resolved = {"rubrics": versions, **graders, "limits": spec.limits.model_dump(), "labelling": labelling}
    request = queued(request_id, project, queries.LABELLING, source, resolved)
    return await _add(session, request, spec, queries.ADD_NAMED_PAIRS, {})


async def _datasets(
    session: AsyncSession, caller: Caller, wanted: dict[str, bool], options: dict[str, Any], name: str
) -> None:
    """Put the ids of the datasets into the options."""
    for kind, needed in wanted.items():
        if needed:
            named = options.get(kind)
            options[kind] = await target(session, caller, kind, named, place=f"/{kind}", name=f"{name}: {kind}")


async def _add(
    session: AsyncSession, request: Grading, spec: StoredCompletions, statement: Any, values: dict[str, Any]
) -> Grading:
    """Store it, with its items where completions are named; a job's and a grading's are looked up by the worker."""
    session.add(request)
    await session.flush()
    if spec.completions is not None:
        await _require_pairs(session, request, spec.completions)
        given = {"grading_id": request.id, "project_id": request.project_id, "ids": spec.completions}
        await session.execute(statement, {**given, **values})
    await session.execute(grading_queries.wake(request.id))
    await session.refresh(request)
    return request


async def _require_pairs(session: AsyncSession, request: Grading, ids: Sequence[str]) -> None:
    """Two completions that are labelled beside each other answer the same prompt."""
    if request.purpose != queries.LABELLING:
        return
    prompts = {row.id: row.messages for row in await session.execute(queries.prompts_of(ids))}
    faults = [
        {
            "pointer": f"/completions/{position + 1}",
            "code": "other_prompt",
            "message": f"'{ids[position]}' and '{ids[position + 1]}' answer different prompts, so neither is the better answer",
        }
        for position in range(0, len(ids), 2)
        if prompts[ids[position]] != prompts[ids[position + 1]]
    ]
    if faults:
        raise Invalid.of(faults[:REPORTED])


async def load(session: AsyncSession, project_id: str, purpose: str, request_id: str) -> Grading:
    """The request as it is now; 404 if it is not one of the project's."""
    statement = queries.by_id(project_id, purpose, request_id).execution_options(populate_existing=True)
    request = await session.scalar(statement)
    if request is None:
        what = "request for revisions" if purpose == queries.REVISION else "request for labelled pairs"
        raise NotFound(f"there is no {what} '{request_id}'")
    return request


async def cancel(session: AsyncSession, request: Grading) -> Grading:
    """End it at once and for good; what is decided stays readable, and no dataset gets rows any more."""
    if (await session.execute(grading_queries.end(request.id, "cancelled"))).first() is not None:
        for statement in grading_queries.leftovers(request.id):
            await session.execute(statement)
    return await load(session, request.project_id, request.purpose, request.id)
