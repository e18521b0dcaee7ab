"""Whether everybody whom a rubric names can grade what it asks of them, with what its criteria inherit from their judges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.contents.includes import Resolved
from service.db.tables import Model
from service.domain.criteria import criterion_weights
from service.domain.grader import JudgeGrader, RewardModelGrader, parts_of
from service.domain.grading import scoring_options
from service.domain.inherited import JudgeFacts, contradictions, own_votes
from service.domain.rubric import DEFAULT_AGGREGATION, Criterion
from service.domain.scoring import mismatches
from service.errors import Invalid
from service.pins import facts_now

Fault = tuple[str, str, str]
"""Pointer, code, message."""


async def require_graders(session: AsyncSession, project_id: str, resolved: Resolved) -> None:
    """422 with the place for a judge or a reward model that the project does not have, for a criterion that its judge cannot be
    asked as it is now, and for an aggregation that the criteria do not allow.

    What is wrong with an included criterion stands at its include.
    """
    judges = await facts_now(session, project_id, resolved.flat.judge_ids())
    kinds = await _kinds(session, project_id, resolved.flat.reward_models())
    faults: list[Fault] = []
    for own, place, criterion in _everything(resolved):
        for below, code, message in _of_criterion(criterion, judges, kinds):
            if own:
                faults.append((f"{place}/{below}", code, message))
            else:
                faults.append((f"{place}/rubric", code, f"its criterion '{criterion.key}': {message}"))
    if not faults:
        faults.extend(_of_aggregation(resolved, judges))
    if faults:
        raise Invalid.of([{"pointer": place, "code": code, "message": message} for place, code, message in faults])


def _everything(resolved: Resolved) -> Iterator[tuple[bool, str, Criterion]]:
    """All flat criteria: whether it is the rubric's own, and its place or that of its include."""
    own = len(resolved.authored.criteria)
    for position, criterion in enumerate(resolved.flat.criteria[:own]):
        yield True, f"/content/criteria/{position}", criterion
    positions = {include.as_: position for position, include in enumerate(resolved.authored.includes)}
    for criterion in resolved.flat.criteria[own:]:
        yield False, f"/content/includes/{positions[criterion.key.split('.')[0]]}", criterion


def _of_criterion(criterion: Criterion, judges: Mapping[str, JudgeFacts], kinds: Mapping[str, str]) -> Iterator[Fault]:
    for below, part in parts_of(criterion.grader).items():
        if isinstance(part, JudgeGrader) and part.judge not in judges:
            yield f"grader{below}/judge", "not_found", f"there is no judge '{part.judge}'"
        if isinstance(part, RewardModelGrader):
            kind = kinds.get(part.model)
            if kind is None:
                yield f"grader{below}/model", "not_found", f"there is no model '{part.model}'"
            elif kind != "reward":
                message = f"model '{part.model}' is a {kind} model; register it with kind 'reward' if it scores"
                yield f"grader{below}/model", "wrong_kind", message
    for found in contradictions(criterion, judges):
        yield found.place, "contradiction", found.message


def _of_aggregation(resolved: Resolved, judges: Mapping[str, JudgeFacts]) -> Iterator[Fault]:
    """The author's own options, which jobs and gradings take over unless they say otherwise."""
    options = scoring_options(resolved.flat.aggregation.over(DEFAULT_AGGREGATION))
    for found in mismatches(options, criterion_weights(resolved.flat.criteria, own_votes(judges))):
        yield f"/content/{'/'.join(found.place)}", "invalid_option", found.message


async def _kinds(session: AsyncSession, project_id: str, models: list[str]) -> dict[str, str]:
    if not models:
        return {}
    statement = select(Model.id, Model.kind).where(Model.project_id == project_id, Model.id.in_(models))
    return dict((await session.execute(statement)).tuples().all())
