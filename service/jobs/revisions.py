"""A job's own revisions, pinned at submit: who revises, by which criteria both texts are graded, where accepted ones go."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from service.domain.job import JobSpec
from service.domain.revision import POLICY, RevisionConfig, fills
from service.domain.revision_request import with_votes
from service.domain.rubric import RubricContent
from service.operation import Caller
from service.revision_datasets import target

FIELD = "revision_rubric"
"""Where `resolved` has, by category, the names of the versions that revisions and their originals are graded by."""


def revision_of(spec: JobSpec) -> RevisionConfig | None:
    """`algorithm.revision`, where the algorithm has one."""
    found: RevisionConfig | None = getattr(spec.algorithm, "revision", None)
    return found


def named_by_revision(spec: JobSpec) -> dict[str, tuple[str, str]]:
    """The reviser, if it is a judge, with its place and who needs it."""
    revision = revision_of(spec)
    if revision is None or revision.reviser == POLICY:
        return {}
    return {revision.reviser: ("/algorithm/revision/reviser", "the job")}


async def pin_revision(session: AsyncSession, caller: Caller, spec: JobSpec, pinned: dict[str, Any]) -> JobSpec:
    """Add the versions with as many votes as were asked for, and make the datasets that are not named; the spec with them."""
    revision = revision_of(spec)
    if revision is None:
        return spec
    names: dict[str, str] = {}
    for category, name in pinned["rubric"].items():
        version = pinned["rubrics"][name]
        content = with_votes(RubricContent.model_validate(version["content"]), revision.votes, pinned["judge_votes"])
        names[category] = f"{name}#afresh"
        pinned["rubrics"][names[category]] = {**version, "content": content.model_dump(mode="json"), "afresh": True}
    pinned[FIELD] = names
    datasets = {}
    for kind, needed in fills(revision.uses).items():
        if needed:
            place, name = f"/algorithm/revision/{kind}", f"{spec.name}: {kind} from revisions"
            datasets[kind] = await target(session, caller, kind, getattr(revision, kind), place=place, name=name)
    algorithm = spec.algorithm.model_copy(update={"revision": revision.model_copy(update=datasets)})
    return spec.model_copy(update={"algorithm": algorithm})
