"""What a request names and what that is now: rubric versions, judges' revisions, models and snapshots, pinned so that they stay.

An id that the project does not have is 422 at its place in the body, the same for a foreign id as for an unknown one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.queries import calibrations as calibration_queries
from service.db.queries import datasets as dataset_queries
from service.db.queries import judges as judge_queries
from service.db.queries import models as model_queries
from service.db.queries import rubrics as rubric_queries
from service.db.tables import Judge, JudgeRevision
from service.domain.abilities import lacking
from service.domain.base import escape
from service.domain.dataset import Snapshot
from service.domain.inherited import JudgeFacts, first_contradiction, first_in_rows
from service.domain.job import by_category
from service.domain.pinned import ANY_CATEGORY, version_name
from service.domain.rubric import RubricContent, RubricRef
from service.errors import Invalid


async def pin_snapshot(
    session: AsyncSession, project: str, dataset_id: str, kinds: tuple[str, ...], place: str
) -> tuple[Snapshot, str]:
    """The published rows of a dataset of one of these kinds as they are now, and its kind."""
    dataset = await session.scalar(dataset_queries.head(project, dataset_id))
    if dataset is None:
        raise Invalid.at(place, "not_found", f"there is no dataset '{dataset_id}'")
    if dataset.kind not in kinds:
        wanted = " or ".join(kinds)
        raise Invalid.at(place, "wrong_kind", f"dataset '{dataset_id}' holds {dataset.kind}; {wanted} are needed here")
    if dataset.rows == 0:
        raise Invalid.at(place, "empty_dataset", f"dataset '{dataset_id}' has no published rows; post some first")
    snapshot = Snapshot(
        dataset=dataset.id, batches=dataset.batches, rows=dataset.rows, last_seq=dataset.last_seq, hash=dataset.hash
    )
    return snapshot, dataset.kind


async def pin_rubric(
    session: AsyncSession, project: str, ref: RubricRef, place: str
) -> tuple[dict[str, Any], RubricContent]:
    """A version by number, alias or `latest`: what is stored with whoever uses it, and its content."""
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


@dataclass(slots=True)
class RubricPins:
    """The versions that a job grades by, each once under its name, with their contents."""

    versions: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, RubricContent] = field(default_factory=dict)

    async def add(
        self, session: AsyncSession, project: str, rubrics: RubricRef | Mapping[str, RubricRef], place: str
    ) -> dict[str, str]:
        """Pin one rubric, or one for each category; the name of the version by category."""
        names: dict[str, str] = {}
        for category, ref in by_category(rubrics).items():
            at = place if isinstance(rubrics, RubricRef) else f"{place}/{escape(category)}"
            pinned, content = await pin_rubric(session, project, ref, at)
            names[category] = version_name(pinned["id"], pinned["version"])
            self.versions[names[category]], self.contents[names[category]] = pinned, content
        return names


async def require_rubrics(session: AsyncSession, names: Mapping[str, str], snapshot: Snapshot, place: str) -> None:
    """422 for prompts of a category that has no rubric; it says how many there are."""
    if ANY_CATEGORY in names:
        return
    statement = dataset_queries.outside_categories(snapshot.dataset, snapshot.last_seq, names)
    faults = [
        {"pointer": place, "code": "no_rubric", "message": _no_rubric(snapshot.dataset, category, rows)}
        for category, rows in await session.execute(statement.limit(20))
    ]
    if faults:
        raise Invalid.of(faults)


def _no_rubric(dataset: str, category: str | None, rows: int) -> str:
    count = f"{rows} prompt{'s' * (rows != 1)} of {dataset} {'has' if rows == 1 else 'have'}"
    what = "no category" if category is None else f"the category '{category}'"
    return f"{count} {what}, for which no rubric is named; name one, or one for '*': all other categories"


Named = Mapping[str, tuple[str, str]]
"""Id of a judge or a model -> where it is named (a place in the body), and who needs it."""


async def pin_graders(
    session: AsyncSession,
    project: str,
    contents: Sequence[RubricContent],
    prompts: Mapping[str, Snapshot] | None = None,
    named: Named | None = None,
) -> dict[str, Any]:
    """What these contents, and prompts' own criteria, are graded by, as it is now, calibrations of the judges among it.

    `prompts`: snapshots of prompts by their place in the body. `named`: more judges and reward models. The answer has `judges`
    (judge -> revision), `local_judges` (judge -> the registered model that it is, for those that are one) and `models` (model ->
    its kind, its hash, which is null while it is being registered, and a reward model's constants), and `calibrations` (judge ->
    the newest one of the revision, whole, so that the numbers stay what they are whatever is fitted later).
    """
    wanted: dict[str, tuple[str, str]] = dict(named or {})
    for place, snapshot in (prompts or {}).items():
        values = {"dataset_id": snapshot.dataset, "last_seq": snapshot.last_seq}
        for kind in ("judge", "model"):
            for found, seq in await session.execute(dataset_queries.named_by_criteria(kind), values):
                wanted.setdefault(found, (place, f"row {snapshot.dataset}:{seq}"))
    for content in contents:
        ids = [*content.judge_ids(), *content.reward_models()]
        wanted.update(dict.fromkeys(ids, ("/rubric", "the rubric")))
    judges = await _pin_judges(session, project, {k: v for k, v in wanted.items() if k.startswith("jdg_")})
    models = {
        model_id: await _pin_model(session, project, model_id, kind="reward", named=wanted[model_id])
        for model_id in sorted(wanted)
        if model_id.startswith("mdl_")
    }
    local = await _local_judges(session, judges)
    for judge, model_id in local.items():
        place, who = wanted[judge]
        needed = (place, f"the judge '{judge}', which {who} needs,")
        models[model_id] = await _pin_model(session, project, model_id, kind="policy", named=needed)
    found = {row.judge_id: row for row in await session.scalars(calibration_queries.latest(judges))} if judges else {}
    calibrations = {
        judge: {"id": row.id, "version": row.version, "revision": row.revision, "curves": row.curves}
        for judge, row in sorted(found.items())
        if row.method != "none"
    }
    return {"judges": judges, "local_judges": local, "models": models, "calibrations": calibrations}


async def _local_judges(session: AsyncSession, judges: Mapping[str, int]) -> dict[str, str]:
    model = JudgeRevision.config["model"].as_string()
    pinned = tuple_(JudgeRevision.judge_id, JudgeRevision.revision).in_(list(judges.items()))
    rows = await session.execute(select(JudgeRevision.judge_id, model).where(pinned, model.is_not(None)))
    return dict(sorted(rows.all()))


async def _pin_model(
    session: AsyncSession, project: str, model_id: str, *, kind: str, named: tuple[str, str]
) -> dict[str, Any]:
    place, who = named
    model = await session.scalar(model_queries.model(project, model_id))
    if model is None:
        raise Invalid.at(place, "not_found", f"{who} needs the model '{model_id}', which does not exist")
    if model.kind != kind:
        raise Invalid.at(
            place, "wrong_kind", f"{who} needs '{model_id}' as a {kind} model, and it is a {model.kind} model"
        )
    if model.status == "failed":
        raise Invalid.at(place, "model_invalid", f"model '{model_id}' of {who} failed to register: {model.error}")
    return {"kind": kind, "sha256": model.sha256, "normalisation": model.normalisation}


async def _pin_judges(session: AsyncSession, project: str, wanted: Named) -> dict[str, int]:
    found = await session.execute(
        select(Judge.id, Judge.revision).where(Judge.project_id == project, Judge.id.in_(wanted))
    )
    pinned: dict[str, int] = dict(found.all())
    missing = sorted(judge for judge in wanted if judge not in pinned)
    if missing:
        place, who = wanted[missing[0]]
        raise Invalid.at(place, "not_found", f"{who} needs the judge '{missing[0]}', which does not exist")
    return {judge: pinned[judge] for judge in sorted(wanted)}


async def facts_of(session: AsyncSession, judges: Mapping[str, int]) -> dict[str, JudgeFacts]:
    """What criteria inherit from each pinned judge."""
    return facts_in(await session.execute(judge_queries.facts(judges)))


async def facts_now(session: AsyncSession, project: str, judge_ids: Collection[str]) -> dict[str, JudgeFacts]:
    """What criteria inherit from those of these judges that the project has, as they are now."""
    return facts_in(await session.execute(judge_queries.facts_now(project, judge_ids))) if judge_ids else {}


async def facts_of_all(session: AsyncSession, project: str) -> dict[str, JudgeFacts]:
    """The same for every judge of the project."""
    return facts_in(await session.execute(judge_queries.facts_now(project)))


def facts_in(rows: Iterable[Any]) -> dict[str, JudgeFacts]:
    """From their rows."""
    return {
        judge: JudgeFacts(votes, confidence, lacking(said, learned)) for judge, votes, confidence, said, learned in rows
    }


def require_askable(contents: Iterable[RubricContent], judges: Mapping[str, JudgeFacts]) -> None:
    """422 for a criterion that its judge cannot be asked any more: the judge has changed since the version was published."""
    for content in contents:
        found = first_contradiction(content.criteria, judges)
        if found is not None:
            raise Invalid.at("/rubric", "contradiction", f"criterion '{found[0]}' as its judge is now: {found[1]}")


async def require_rows_askable(
    session: AsyncSession, prompts: Mapping[str, Snapshot], judges: Mapping[str, JudgeFacts]
) -> None:
    """The same for the criteria that prompts bring along; `prompts`: snapshots by their place in the body."""
    for place, snapshot in prompts.items():
        values = {"dataset_id": snapshot.dataset, "last_seq": snapshot.last_seq}
        rows = await session.execute(dataset_queries.JUDGED_BY_ROWS, values)
        found = first_in_rows(
            ((f"criterion '{key}' of row {snapshot.dataset}:{seq}", *asked) for seq, key, *asked in rows), judges
        )
        if found is not None:
            raise Invalid.at(place, "contradiction", f"{found[0]} as its judge is now: {found[1]}")
