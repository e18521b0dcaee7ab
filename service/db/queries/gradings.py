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

from service.db.queries.jobs import now, seconds
from service.db.tables import CellBatch, CellRow, Completion, Grading, GradingGroup, GradingItem, Outbox
from service.domain.ids import new_id

TASK = "workers.tasks.grading.begin"
QUEUE = "grading"
LIVE = ("queued", "running")
TRY_LIMIT_S = 600
"""Nobody waits for a `try` longer than this."""


def of_project(project_id: str) -> Select[Grading]:
    """The gradings of a project; a `try` is none."""
    return select(Grading).where(Grading.project_id == project_id, Grading.purpose == "grading")


def by_id(project_id: str, grading_id: str) -> Select[Grading]:
    """One grading of a project."""
    return of_project(project_id).where(Grading.id == grading_id)


def wake(grading_id: str) -> Executable:
    """The message that a grading waits."""
    return insert(Outbox).values(id=new_id("event"), subject_id=grading_id, task=TASK, queue=QUEUE)


ADD_TEXTS: TextClause = text(
    """
    INSERT INTO grading_items (grading_id, position, project_id, group_key, prompt, text)
    SELECT :grading_id, r.position, :project_id, r.group_key, r.prompt, r.text
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(position integer, group_key text, prompt jsonb, text text)
    """
)

_STORED = """
    INSERT INTO grading_items (grading_id, position, project_id, group_key, completion_id, completion_created_at)
    SELECT :grading_id, row_number() OVER (ORDER BY {order}) - 1, :project_id, c.group_id,
           CASE WHEN :reuse THEN coalesce(c.cells_of, c.id) ELSE c.id END,
           CASE WHEN :reuse THEN coalesce(c.cells_created_at, c.created_at) ELSE c.created_at END
    FROM {source}
"""

ADD_COMPLETIONS: TextClause = text(
    _STORED.format(
        order="n.place",
        source="""unnest(CAST(:ids AS text[])) WITH ORDINALITY AS n(id, place)
                  JOIN completions c ON c.id = n.id AND c.project_id = :project_id""",
    )
)
"""Named completions, in the order of their names; unknown ones are not there. A completion that was aggregated anew
stands for the one whose cells it has."""

ADD_JOB: TextClause = text(
    _STORED.format(
        order="c.step, c.group_index, c.idx, c.fence",
        source="""completions c WHERE c.job_id = :job_id AND c.purpose = :purpose AND NOT EXISTS (
                      SELECT FROM attempts a
                      WHERE a.job_id = c.job_id AND a.fence > c.fence AND a.resumed_from_step < c.step)""",
    )
)
"""A job's completions that no later attempt has undone, in the order of their list."""

ADD_GRADING: TextClause = text(
    _STORED.format(order="c.position", source="completions c WHERE c.grading_id = :source_id")
)


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


_NAMED = """
    SELECT DISTINCT found #>> '{{}}' AS judge
    FROM completions c, jsonb_path_query(c.prompt, '$.criteria[*].grader.**.judge') AS found
    WHERE {where} AND jsonb_exists(c.prompt, 'criteria')
"""

JUDGES_OF_COMPLETIONS: TextClause = text(_NAMED.format(where="c.id = ANY(CAST(:ids AS text[]))"))
JUDGES_OF_GRADING: TextClause = text(_NAMED.format(where="c.grading_id = :source_id"))
"""The judges that prompts' own criteria name."""


# --- who holds it ---


def claim(worker_id: str, lease_s: float, *, quick: bool) -> Executable:
    """Take one that waits, or whose worker has let its lease lapse, which counts as a failure.

    `quick`: a person waits (`try`), or it asks nobody (`reuse_cells`); these never stand behind slow ones.
    """
    is_quick = or_(Grading.purpose == "try", Grading.reuse_cells)
    waits = and_(Grading.status == "queued", func.coalesce(Grading.next_run_at, now()) <= now())
    lapsed = and_(Grading.status == "running", Grading.lease_expires_at < now())
    best = (
        select(Grading.id)
        .where(or_(waits, lapsed), is_quick if quick else ~is_quick)
        .order_by((Grading.purpose == "try").desc(), Grading.created_at, Grading.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .cte("best")
    )
    return (
        update(Grading)
        .where(Grading.id == best.c.id)
        .values(
            status="running",
            status_reason=None,
            fence=Grading.fence + 1,
            failures=Grading.failures + case((Grading.status == "running", 1), else_=0),
            worker_id=worker_id,
            lease_expires_at=now() + seconds(lease_s),
            next_run_at=None,
            started_at=func.coalesce(Grading.started_at, now()),
            updated_at=now(),
        )
        .returning(Grading.id, Grading.fence)
    )


def renew(held: Mapping[str, int], worker_id: str, lease_s: float) -> Executable:
    """Renew leases; returns what is still held."""
    return (
        update(Grading)
        .where(Grading.id.in_(list(held)), Grading.worker_id == worker_id, Grading.status == "running")
        .values(lease_expires_at=now() + seconds(lease_s))
        .returning(Grading.id, Grading.fence)
    )


def release(worker_id: str) -> Executable:
    """Give everything back that this worker holds; no failure."""
    return (
        update(Grading)
        .where(Grading.worker_id == worker_id, Grading.status == "running")
        .values(status="queued", worker_id=None, lease_expires_at=None, updated_at=now())
    )


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


# --- what it has already ---


def stored_numbers(grading_id: str) -> Select[*tuple[Any, ...]]:
    """The completions of finished groups, with what decides their criteria."""
    return select(
        Completion.id,
        Completion.group_index,
        Completion.rubric_id,
        Completion.rubric_version,
        Completion.prompt,
        Completion.plain_reward,
        Completion.reward,
        Completion.coverage,
        Completion.signal,
    ).where(Completion.grading_id == grading_id)


def stored_cells(grading_id: str) -> Select[*tuple[Any, ...]]:
    """Their cells."""
    own = and_(CellRow.completion_id == Completion.id, CellRow.created_at == Completion.created_at)
    return (
        select(CellRow.completion_id, CellRow.criterion, CellRow.status, CellRow.score, CellRow.confidence)
        .join(Completion, own)
        .where(Completion.grading_id == grading_id)
    )


# --- its groups ---

PLAN: TextClause = text(
    """
    INSERT INTO grading_groups (grading_id, number, project_id, group_key, size, status)
    SELECT :grading_id, row_number() OVER (ORDER BY min(position)) - 1, :project_id, group_key, count(*), 'waiting'
    FROM grading_items WHERE grading_id = :grading_id GROUP BY group_key
    """
)


def kinds_of_prompts(grading_id: str) -> Select[*tuple[Any, ...]]:
    """How many items there are of each rubric version (of stored completions) and kind of prompt: what decides criteria."""
    prompt = func.coalesce(GradingItem.prompt, Completion.prompt)
    parts = [prompt[name] for name in ("category", "tags", "criteria")]
    return (
        select(Completion.rubric_id, Completion.rubric_version, *parts, func.count())
        .select_from(GradingItem)
        .outerjoin(Completion, _stored())
        .where(GradingItem.grading_id == grading_id)
        .group_by(Completion.rubric_id, Completion.rubric_version, *parts)
    )


def _stored() -> ColumnElement[bool]:
    return and_(Completion.id == GradingItem.completion_id, Completion.created_at == GradingItem.completion_created_at)


def open_groups(grading_id: str, status: str, limit: int | None = None) -> Select[int, int]:
    """Number and size of the groups in this state, in order."""
    statement = (
        select(GradingGroup.number, GradingGroup.size)
        .where(GradingGroup.grading_id == grading_id, GradingGroup.status == status)
        .order_by(GradingGroup.number)
    )
    return statement.limit(limit) if limit else statement


def _members(grading_id: str, numbers: Collection[int], columns: Sequence[Any]) -> Select[*tuple[Any, ...]]:
    return (
        select(GradingGroup.number, GradingItem.position, *columns)
        .select_from(GradingGroup)
        .join(
            GradingItem,
            and_(GradingItem.grading_id == GradingGroup.grading_id, GradingItem.group_key == GradingGroup.group_key),
        )
        .outerjoin(Completion, _stored())
        .where(GradingGroup.grading_id == grading_id, GradingGroup.number.in_(numbers))
        .order_by(GradingGroup.number, GradingItem.position)
    )


def texts_of(grading_id: str, numbers: Collection[int]) -> Select[*tuple[Any, ...]]:
    """The members of these groups with prompt and text, to be graded."""
    prompt, text_ = (
        func.coalesce(GradingItem.prompt, Completion.prompt),
        func.coalesce(GradingItem.text, Completion.text),
    )
    columns = [prompt.label("prompt"), text_.label("text"), GradingItem.completion_id, Completion.group_id]
    return _members(grading_id, numbers, columns)


def mark(grading_id: str, numbers: Collection[int], status: str) -> Executable:
    """Groups in a new state."""
    return (
        update(GradingGroup)
        .where(GradingGroup.grading_id == grading_id, GradingGroup.number.in_(numbers))
        .values(status=status)
    )


def unanswered_keys(grading_id: str) -> Select[str]:
    """The keys of batches that are not done."""
    return select(CellBatch.key).where(CellBatch.grading_id == grading_id, CellBatch.status != "done")


PROGRESS: TextClause = text(
    """
    SELECT count(*) AS done, count(*) FILTER (WHERE r.cell ->> 'status' <> 'ok') AS failed
    FROM cell_batches b JOIN cell_requests r ON r.batch_id = b.id
    WHERE b.grading_id = :grading_id AND r.cell IS NOT NULL
    """
)
"""Cells that have come for groups that are not finished."""
