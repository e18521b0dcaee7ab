"""Gradings: what is graded, who holds it, how far it is.

Every write of a worker starts with `touch`, under the fence of its claim: a stale fence writes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Delete,
    Executable,
    Select,
    TextClause,
    and_,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    text,
    update,
)

from service.db.queries import leases
from service.db.queries.datasets import JUDGED_COLUMNS
from service.db.queries.jobs import now, seconds
from service.db.queries.spent import with_spent
from service.db.tables import CellBatch, Completion, Grading, GradingGroup, GradingItem, Outbox
from service.domain.ids import new_id

TASK = "workers.tasks.grading.begin"
QUEUE = "grading"
LIVE = ("queued", "running")
TRY_LIMIT_S = 600
"""Nobody waits for a `try` longer than this."""


def of_project(project_id: str) -> Select[Grading]:
    """The gradings of a project; a `try` is none."""
    graded = and_(Grading.project_id == project_id, Grading.purpose == "grading")
    return select(Grading).where(graded).options(with_spent(Grading.spent, Grading.id))


def by_id(project_id: str, grading_id: str) -> Select[Grading]:
    """One grading of a project."""
    return of_project(project_id).where(Grading.id == grading_id)


def wake(grading_id: str) -> Executable:
    """The message that a grading waits."""
    return insert(Outbox).values(id=new_id("event"), subject_id=grading_id, task=TASK, queue=QUEUE)


def has_completions(
    *, job_id: str | None = None, grading_id: str | None = None, purpose: str | None = None
) -> Select[*tuple[Any, ...]]:
    """Whether a job or a grading has any."""
    statement = select(Completion.id).limit(1)
    if job_id is not None:
        return statement.where(Completion.job_id == job_id, Completion.purpose == purpose)
    return statement.where(Completion.grading_id == grading_id)


def known_completions(project_id: str, ids: Sequence[str]) -> Select[str]:
    """Those of these ids that the project has."""
    return select(Completion.id).where(Completion.project_id == project_id, Completion.id.in_(ids))


def outside_categories(
    names: Collection[str],
    *,
    completions: Sequence[str] | None = None,
    job: str | None = None,
    purpose: str | None = None,
    grading: str | None = None,
) -> Select[str | None, int]:
    """The categories beside these of the prompts of some completions, a job's or a grading's, with how many there are."""
    category = Completion.prompt["category"].astext
    statement = select(category, func.count()).where(or_(category.is_(None), category.not_in(list(names))))
    if completions is not None:
        statement = statement.where(Completion.id.in_(completions))
    elif job is not None:
        statement = statement.where(Completion.job_id == job, Completion.purpose == purpose)
    else:
        statement = statement.where(Completion.grading_id == grading)
    return statement.group_by(category).order_by(func.count().desc(), category)


_NAMED = """
    SELECT DISTINCT found #>> '{{}}' AS named
    FROM completions c, jsonb_path_query(c.prompt, '$.criteria[*].grader.**') AS part, jsonb_each(part) AS field(name, found)
    WHERE {where} AND jsonb_exists(c.prompt, 'criteria') AND jsonb_typeof(part) = 'object' AND name IN ('judge', 'model')
"""

NAMED_BY_COMPLETIONS: TextClause = text(_NAMED.format(where="c.id = ANY(CAST(:ids AS text[]))"))
NAMED_BY_JOB: TextClause = text(_NAMED.format(where="c.job_id = :job_id AND c.purpose = :purpose"))
NAMED_BY_GRADING: TextClause = text(_NAMED.format(where="c.grading_id = :source_id"))
"""The judges and reward models that prompts' own criteria name."""


_JUDGED = """
    SELECT DISTINCT {columns}
    FROM completions p, jsonb_array_elements(p.prompt -> 'criteria') AS c(criterion)
    WHERE {where} AND jsonb_exists(p.prompt, 'criteria') AND c.criterion #>> '{{grader,type}}' = 'judge'
    ORDER BY {columns}
"""


def _judged(where: str) -> TextClause:
    return text(_JUDGED.format(columns=JUDGED_COLUMNS, where=where))


JUDGED_BY_COMPLETIONS = _judged("p.id = ANY(CAST(:ids AS text[]))")
JUDGED_BY_GRADING = _judged("p.grading_id = :source_id")
JUDGED_BY_JOB = _judged("p.job_id = :source_id AND p.purpose = :purpose")
"""What prompts' own criteria ask of judges, each combination once."""


# --- who holds it ---


LANES: dict[str, ColumnElement[bool]] = {
    "try": Grading.purpose == "try",
    "reuse": and_(Grading.purpose == "grading", Grading.reuse_cells),
    "grade": and_(Grading.purpose == "grading", ~Grading.reuse_cells),
    "revise": Grading.purpose.in_(("revision", "labelling", "drafting")),
}
"""Gradings that never stand behind each other: a person waits, nobody is asked, judges are asked, revisers and drafters are asked."""


def claim(worker_id: str, lease_s: float, lane: str, *, lapsed: bool) -> Executable:
    """Take one of a lane that waits or, with `lapsed`, whose worker has let its lease lapse, which counts as a failure."""
    waits = and_(Grading.status == "queued", func.coalesce(Grading.next_run_at, now()) <= now())
    best = (
        select(Grading.id)
        .where(or_(waits, leases.has_lapsed(Grading)) if lapsed else waits, LANES[lane])
        .order_by(Grading.created_at, Grading.id)
        .limit(1)
    )
    return leases.take(
        Grading,
        best,
        worker_id,
        lease_s,
        [Grading.id, Grading.fence],
        status_reason=None,
        failures=Grading.failures + case((Grading.status == "running", 1), else_=0),
        next_run_at=None,
        started_at=func.coalesce(Grading.started_at, now()),
        updated_at=now(),
    )


def renew(held: Mapping[str, int], worker_id: str, lease_s: float) -> Executable:
    """Renew leases; returns what is still held."""
    return leases.renew(Grading, held, worker_id, lease_s)


def release(worker_id: str) -> Executable:
    """Give everything back that this worker holds; no failure."""
    return leases.release(Grading, worker_id, updated_at=now())


def touch(grading_id: str, fence: int, **values: Any) -> Executable:
    """The head of every fenced write: locks the row, and returns nothing if the fence is stale."""
    return (
        update(Grading)
        .where(Grading.id == grading_id, Grading.fence == fence, Grading.status == "running")
        .values(updated_at=now(), **values)
        .returning(Grading.id)
    )


def end(grading_id: str, status: str, *, fence: int | None = None, **values: Any) -> Executable:
    """Into a terminal state, for good: whoever holds it finds its fence stale. Returns nothing if it has ended before."""
    ended = update(Grading).where(Grading.id == grading_id, Grading.status.in_(LIVE))
    if fence is not None:
        ended = ended.where(Grading.fence == fence)
    return ended.values(
        status=status,
        status_reason=None,
        fence=Grading.fence + 1,
        worker_id=None,
        lease_expires_at=None,
        next_run_at=None,
        finished_at=now(),
        updated_at=now(),
        **values,
    ).returning(Grading.id)


def retry(grading_id: str, fence: int, failures: int, wait_s: float, reason: str) -> Executable:
    """Queue it again, for later."""
    return (
        update(Grading)
        .where(Grading.id == grading_id, Grading.fence == fence, Grading.status == "running")
        .values(
            status="queued",
            status_reason=reason,
            failures=failures,
            worker_id=None,
            lease_expires_at=None,
            next_run_at=now() + seconds(wait_s),
            updated_at=now(),
        )
    )


def leftovers(grading_id: str) -> list[Delete]:
    """What nobody needs once it has ended: its results stand with the completions."""
    return [
        delete(CellBatch).where(CellBatch.grading_id == grading_id),
        delete(GradingGroup).where(GradingGroup.grading_id == grading_id),
        delete(GradingItem).where(GradingItem.grading_id == grading_id),
    ]


def forgotten_tries() -> Delete:
    """Tries whose request has died with its process."""
    return delete(Grading).where(Grading.purpose == "try", Grading.created_at < now() - seconds(TRY_LIMIT_S))
