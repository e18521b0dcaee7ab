"""What is decided about drafts of criteria: what they are made from, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from service.budgets import require_prices
from service.db.queries import datasets as dataset_queries
from service.db.queries import drafts as queries
from service.db.queries import gradings as grading_queries
from service.db.queries import rubrics as rubric_queries
from service.db.tables import AcceptedDraft, DatasetRow, Grading, GradingGroup, Rubric, RubricVersion
from service.domain.base import content_hash
from service.domain.dataset import PreferenceRow, prompt_view
from service.domain.drafting import PER_QUESTION, PROMPT_VERSION, AcceptIn, Draft, DraftSpec
from service.domain.grading import graded_texts
from service.domain.ids import new_id
from service.domain.lint import Finding
from service.domain.pinned import version_name
from service.domain.rubric import AuthoredContent
from service.errors import Conflict, Invalid, NotFound
from service.operation import Caller
from service.pins import pin_graders, pin_snapshot
from service.rubrics.commands import publish_version
from service.rubrics.schemas import VersionIn

Items = list[dict[str, Any]]


async def create_drafts(
    session: AsyncSession, caller: Caller, head: Rubric, version: RubricVersion, spec: DraftSpec
) -> Grading:
    """Pin everything that it names, and queue it."""
    project, request_id = caller.project_id, new_id("draft")
    items, source = await _items(session, project, spec)
    named = {spec.judge: ("/judge", "the request")}
    grader = spec.grader or spec.judge
    named.setdefault(grader, ("/grader", "the request"))
    graders = await pin_graders(session, project, [], named=named)
    await require_prices(session, spec.limits, graders["judges"], graders["local_judges"])
    questions = [items[start : start + PER_QUESTION] for start in range(0, len(items), PER_QUESTION)]
    options = spec.model_dump(include={"judge", "most", "min_agreement", "instructions"})
    pinned = {"id": head.id, "version": version.version, "hash": version.hash, "content": version.graded_by}
    resolved = {
        "rubrics": {version_name(head.id, version.version): pinned},
        **graders,
        "limits": spec.limits.model_dump(),
        "drafting": {
            **options,
            "grader": grader,
            "prompt_version": PROMPT_VERSION,
            "across": spec.examples is not None,
            "questions": questions,
        },
    }
    row = Grading(
        id=request_id,
        project_id=project,
        purpose=queries.DRAFTING,
        status="queued",
        source={"rubric": head.id, "version": version.version, **source},
        resolved=resolved,
        reuse_cells=False,
        expanded=0,
        planned=True,
        cells=len(questions),
        done=0,
        failed=0,
        fence=0,
        failures=0,
    )
    session.add(row)
    await session.flush()
    session.add_all(
        GradingGroup(
            grading_id=request_id, number=k, project_id=project, group_key=f"d:{k}", size=len(own), status="waiting"
        )
        for k, own in enumerate(questions)
    )
    await session.flush()
    await session.execute(grading_queries.wake(request_id))
    return await load(session, project, head.id, request_id)


async def _items(session: AsyncSession, project: str, spec: DraftSpec) -> tuple[Items, dict[str, Any]]:
    """Prompts with good and bad answers, and what is shown of where they came from."""
    if spec.pairs is not None:
        return [_pair(f"pair:{k}", pair) for k, pair in enumerate(spec.pairs)], {"pairs": len(spec.pairs)}
    if spec.examples is not None:
        return _examples(spec), {"examples": len(spec.examples)}
    assert spec.preferences is not None
    snapshot, _ = await pin_snapshot(session, project, spec.preferences, ("preferences",), "/preferences")
    count = min(spec.most_pairs, snapshot.rows)
    wanted = sorted({1 + place * snapshot.last_seq // count for place in range(count)})
    statement = dataset_queries.rows(snapshot.dataset).where(DatasetRow.seq.in_(wanted)).order_by(DatasetRow.seq)
    rows = await session.scalars(statement)
    items = [_pair(f"{snapshot.dataset}:{row.seq}", PreferenceRow.model_validate(row.content)) for row in rows]
    return items, {"preferences": snapshot.model_dump(), "pairs": len(items)}


def _pair(name: str, pair: PreferenceRow) -> dict[str, Any]:
    (view, chosen), (_, rejected) = graded_texts("preferences", name, pair.model_dump(mode="json", exclude_none=True))
    return {"prompt": view, "good": [chosen], "bad": [rejected]}


def _examples(spec: DraftSpec) -> Items:
    """By prompt, prompts with both kinds of answers first; then spread so that each question has both, if it can."""
    by_prompt: dict[str, dict[str, Any]] = {}
    for k, example in enumerate(spec.examples or ()):
        view = prompt_view(example.prompt, f"example:{k}")
        key = content_hash({name: value for name, value in view.items() if name != "id"})
        item = by_prompt.setdefault(key, {"prompt": view, "good": [], "bad": []})
        item["good" if example.good else "bad"].append(example.text)
    return _spread(by_prompt.values())


def _spread(items: Iterable[dict[str, Any]]) -> Items:
    found = list(items)
    good = [item for item in found if not item["bad"]]
    bad = [item for item in found if not item["good"]]
    both = [item for item in found if item["good"] and item["bad"]]
    mixed: Items = []
    while good or bad:
        mixed += [part.pop(0) for part in (good, bad) if part]
    return both + mixed


async def load(session: AsyncSession, project_id: str, rubric_id: str, draft_id: str) -> Grading:
    """The request as it is now, or 404."""
    statement = queries.by_id(project_id, rubric_id, draft_id)
    row = await session.scalar(statement.execution_options(populate_existing=True))
    if row is None:
        raise NotFound(f"rubric '{rubric_id}' has no drafts '{draft_id}'")
    return row


async def cancel(session: AsyncSession, rubric_id: str, row: Grading) -> Grading:
    """End it at once and for good. One that has ended stays as it is."""
    if (await session.execute(grading_queries.end(row.id, "cancelled"))).first() is not None:
        for statement in grading_queries.leftovers(row.id):
            await session.execute(statement)
    return await load(session, row.project_id, rubric_id, row.id)


async def accept(
    session: AsyncSession, caller: Caller, head: Rubric, row: Grading, body: AcceptIn
) -> tuple[RubricVersion, list[Finding]]:
    """The accepted drafts behind the criteria of the latest version, published as the next one. The head must be locked."""
    latest = await session.scalar(rubric_queries.version(head.id, head.latest_version))
    assert latest is not None
    if row.status != "succeeded":
        raise Conflict(f"these drafts are {row.status}; only checked drafts can be accepted", code="not_checked")
    result: dict[str, Any] = row.result or {}
    drafts = {found["key"]: Draft.model_validate(found) for found in result["drafts"]}
    content = AuthoredContent.model_validate(latest.content).model_dump(mode="json", exclude_unset=True)
    criteria = [*content.get("criteria", []), *_accepted(drafts, body)]
    fresh = AuthoredContent.model_validate({**content, "criteria": _without_twins(criteria, body)})
    message = body.message or f"accepted from {row.id}: {', '.join(a.as_ or a.key for a in body.criteria)}"
    if body.override is not None:
        message = f"{message} (override: {body.override})"
    version, _, findings = await publish_version(session, caller, head, VersionIn(content=fresh, message=message))
    session.add_all(
        AcceptedDraft(
            request_id=row.id,
            draft=a.key,
            rubric_id=head.id,
            version=version.version,
            criterion=a.as_ or a.key,
            project_id=caller.project_id,
            override=body.override,
            key_id=caller.key_id,
        )
        for a in body.criteria
    )
    await session.flush()
    return version, findings


def _accepted(drafts: dict[str, Draft], body: AcceptIn) -> list[dict[str, Any]]:
    faults: list[dict[str, Any]] = []
    found = []
    for position, given in enumerate(body.criteria):
        place = f"/criteria/{position}/key"
        draft = drafts.get(given.key)
        if draft is None or draft.criterion is None:
            known = ", ".join(key for key, one in drafts.items() if one.criterion is not None) or "none"
            why = f": {draft.problems[0]}" if draft is not None and draft.problems else ""
            message = f"there is no draft '{given.key}' that can be accepted{why}; there are: {known}"
            faults.append({"pointer": place, "code": "not_found", "message": message})
        elif draft.problems and body.override is None:
            message = f"'{given.key}' should not be accepted: {'; '.join(draft.problems)}. Say in 'override' why it is all the same"
            faults.append({"pointer": place, "code": "failed_checks", "message": message})
        else:
            found.append({**draft.criterion, "key": given.as_ or given.key, "weight": given.weight})
    if faults:
        raise Invalid.of(faults)
    return found


def _without_twins(criteria: Sequence[dict[str, Any]], body: AcceptIn) -> Sequence[dict[str, Any]]:
    keys = [criterion["key"] for criterion in criteria]
    first = len(keys) - len(body.criteria)
    faults = [
        {
            "pointer": f"/criteria/{place - first}/as",
            "code": "duplicate",
            "message": f"the rubric has a criterion '{key}' already; give this one another key with 'as'",
        }
        for place, key in enumerate(keys)
        if place >= first and key in keys[:place]
    ]
    if faults:
        raise Invalid.of(faults)
    return criteria
