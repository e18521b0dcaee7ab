"""The statements of the job state machine.

Each transition is one statement: a conditional UPDATE of the row, its event with the next sequence number, the wake-up
message in the outbox and the end of the attempt. It returns the new row, or nothing if the job was not in a state (or
under a fence) that allows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Delete,
    Executable,
    Select,
    and_,
    case,
    cast,
    delete,
    func,
    insert,
    literal,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from service.db.queries.spent import with_spent
from service.db.tables import Attempt, Job, JobEvent, Outbox
from service.domain.ids import new_id
from service.domain.job_state import HELD, TERMINAL, TRANSITIONS, Event, State

TRAINING_TASK = "workers.tasks.training.run"
TRAINING_QUEUE = "training"
NUDGE_AGAIN_S = 60


def now() -> ColumnElement[Any]:
    """The database's clock: the only one that leases and events go by."""
    return func.clock_timestamp()


def seconds(value: float) -> ColumnElement[Any]:
    """An interval of so many seconds."""
    return func.make_interval(0, 0, 0, 0, 0, 0, value)


def next_fence(fence: Any) -> ColumnElement[Any]:
    """A fence above this one, and above every fence that was given out before now: milliseconds of the database's clock.

    Counting alone would give a fence out a second time where a database has lost its last commits (a failover to a late
    replica, an older copy put back), and two attempts could hold it.
    """
    clock = func.floor(func.extract("epoch", now()) * 1000)
    return func.greatest(fence + 1, cast(clock, BigInteger))


def _jsonb(value: Any) -> ColumnElement[Any]:
    return literal(value, JSONB)


def transition(
    event: Event,
    job_id: str,
    *,
    fence: int | None = None,
    project_id: str | None = None,
    reason: str | None = None,
    data: Mapping[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
    end_reason: str | None = None,
) -> Executable:
    """Move a job by `event`; returns its row with `old_status`, or no row if the move is not allowed now.

    With `fence`, only the attempt that holds it may move the job, and only while it holds it: one that was reaped keeps its
    fence until the next claim, and ends nothing. `values` sets more columns of the row.
    """
    moves = TRANSITIONS[event]
    if fence is not None:
        moves = {old: new for old, new in moves.items() if old in HELD}
    held = _lock(job_id, tuple(moves), fence=fence, project_id=project_id)
    target = case(*[(held.c.status == old, new) for old, new in moves.items()])
    changes: dict[str, Any] = {
        "status": target,
        "status_reason": reason,
        "updated_at": now(),
        "event_seq": Job.event_seq + 1,
        "next_run_at": None,
        **(values or {}),
    }
    if event == "cancel":
        changes["fence"] = next_fence(Job.fence)
    if set(moves.values()) <= TERMINAL:
        changes["finished_at"] = now()
    moved = (
        update(Job)
        .where(Job.id == held.c.id)
        .values(changes)
        .returning(*Job.__table__.c, held.c.status.label("old_status"))
    ).cte("moved")
    return _with_effects(moved, held, moves, data or {}, end_reason or event)


def _lock(job_id: str, states: tuple[State, ...], *, fence: int | None, project_id: str | None) -> CTE:
    wanted = select(Job.id, Job.status, Job.fence).where(Job.id == job_id, Job.status.in_(states))
    if fence is not None:
        wanted = wanted.where(Job.fence == fence)
    if project_id is not None:
        wanted = wanted.where(Job.project_id == project_id)
    return wanted.with_for_update().cte("held")


def _with_effects(
    moved: CTE, held: CTE, moves: Mapping[State, State], data: Mapping[str, Any], end_reason: str
) -> Executable:
    """Everything that goes with a move, in the same statement."""
    effects: list[CTE] = [
        insert(JobEvent)
        .from_select(
            ["job_id", "seq", "id", "project_id", "type", "attempt", "data"],
            select(
                moved.c.id,
                moved.c.event_seq,
                literal(new_id("event")),
                moved.c.project_id,
                literal("job.") + moved.c.status,
                moved.c.attempt,
                func.jsonb_strip_nulls(
                    func.jsonb_build_object(
                        "from", moved.c.old_status, "reason", moved.c.status_reason, "error", moved.c.error
                    )
                ).op("||")(_jsonb(dict(data))),
            ),
        )
        .cte("event")
    ]
    if any(old in HELD and new not in HELD for old, new in moves.items()):
        effects.append(
            update(Attempt)
            .where(Attempt.job_id == moved.c.id, Attempt.fence == held.c.fence, Attempt.ended_at.is_(None))
            .where(held.c.id == moved.c.id, moved.c.status.not_in(HELD))
            .values(ended_at=now(), end_reason=end_reason)
            .cte("ended")
        )
    if "queued" in moves:
        effects.append(
            delete(Outbox).where(Outbox.subject_id == moved.c.id, moved.c.old_status == "queued").cte("unsent")
        )
    if "queued" in moves.values():
        effects.append(_wake(moved).cte("wake"))
    final: Select[Any] = select(moved)
    return final.add_cte(*effects)


def _wake(moved: CTE) -> Any:
    return insert(Outbox).from_select(
        ["id", "subject_id", "task", "queue"],
        select(literal(new_id("event")), moved.c.id, literal(TRAINING_TASK), literal(TRAINING_QUEUE)).where(
            moved.c.status == "queued"
        ),
    )


def submit(values: Mapping[str, Any]) -> Executable:
    """Insert a queued job with its first event and its wake-up message."""
    moved = (
        insert(Job)
        .values({"status": "queued", "event_seq": 1, **values})
        .returning(*Job.__table__.c, literal(None).label("old_status"))
    ).cte("moved")
    event = insert(JobEvent).from_select(
        ["job_id", "seq", "id", "project_id", "type", "attempt", "data"],
        select(
            moved.c.id, moved.c.event_seq, literal(new_id("event")), moved.c.project_id, literal("job.queued"),
            moved.c.attempt, _jsonb({}),
        ),
    )  # fmt: skip
    return select(moved).add_cte(event.cte("event"), _wake(moved).cte("wake"))


def claim(
    worker_id: str, host: str, *, lease_s: float, processes: int, concurrent_jobs: int | None = None
) -> Executable:
    """Take the best fitting queued job: raise its fence, count the attempt, set the lease. Returns its row."""
    best = (
        select(Job.id)
        .where(Job.status == "queued", Job.processes <= processes)
        .order_by(Job.priority.desc(), Job.created_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    if concurrent_jobs is not None:
        busy = Job.__table__.alias("busy")
        running = select(func.count()).where(busy.c.project_id == Job.project_id, busy.c.status.in_(HELD))
        best = best.where(running.scalar_subquery() < concurrent_jobs)
    best_cte = best.cte("best")
    moved = (
        update(Job)
        .where(Job.id == best_cte.c.id)
        .values(
            status="starting",
            status_reason=None,
            fence=next_fence(Job.fence),
            attempt=Job.failures + 1,
            event_seq=Job.event_seq + 1,
            started_at=func.coalesce(Job.started_at, now()),
            updated_at=now(),
        )
        .returning(*Job.__table__.c)
    ).cte("moved")
    event = insert(JobEvent).from_select(
        ["job_id", "seq", "id", "project_id", "type", "attempt", "data"],
        select(
            moved.c.id, moved.c.event_seq, literal(new_id("event")), moved.c.project_id, literal("job.starting"),
            moved.c.attempt, _jsonb({"from": "queued", "worker": worker_id, "host": host}),
        ),
    )  # fmt: skip
    attempt = insert(Attempt).from_select(
        ["job_id", "fence", "project_id", "attempt", "worker_id", "host", "lease_expires_at"],
        select(
            moved.c.id, moved.c.fence, moved.c.project_id, moved.c.attempt, literal(worker_id), literal(host),
            now() + seconds(lease_s),
        ),
    )  # fmt: skip
    unsent = delete(Outbox).where(Outbox.subject_id == moved.c.id)
    return select(moved).add_cte(event.cte("event"), attempt.cte("attempt"), unsent.cte("unsent"))


def too_large(processes: int) -> Executable:
    """Tell queued jobs that nobody has told yet that a worker which gives so many processes has passed them over."""
    reason = func.concat(
        "waits for a training worker that gives a job ", Job.processes, f" processes; one that gives {processes} has passed it over",
        " (GRAPE_JOBS__PROCESSES)",
    )  # fmt: skip
    return (
        update(Job)
        .where(Job.status == "queued", Job.processes > processes, Job.status_reason.is_(None))
        .values(status_reason=reason)
    )


def heartbeat(job_id: str, fence: int, lease_s: float) -> Executable:
    """Renew the lease of a held job; no row means that it is lost."""
    return (
        update(Attempt)
        .where(Attempt.job_id == job_id, Attempt.fence == fence, Attempt.ended_at.is_(None))
        .where(
            select(literal(1)).where(Job.id == job_id, Job.fence == fence, Job.status.in_(HELD)).exists(),
        )
        .values(lease_expires_at=now() + seconds(lease_s))
        .returning(Attempt.lease_expires_at)
    )


def wish(job_id: str, fence: int) -> Select[str]:
    """The status of a held job, which says what is wished of it; no row means that the fence is stale."""
    return select(Job.status).where(Job.id == job_id, Job.fence == fence, Job.status.in_(HELD))


def touch(job_id: str, fence: int, **values: Any) -> Executable:
    """The head of every fenced write: locks the row, and returns nothing if the fence is stale."""
    return (
        update(Job)
        .where(Job.id == job_id, Job.fence == fence, Job.status.in_(HELD))
        .values(updated_at=now(), **values)
        .returning(Job.project_id, Job.attempt, Job.event_seq)
    )


def append_event(job_id: str, fence: int, kind: str, data: Mapping[str, Any]) -> Executable:
    """A fenced event that moves nothing."""
    moved = (
        update(Job)
        .where(Job.id == job_id, Job.fence == fence, Job.status.in_(HELD))
        .values(event_seq=Job.event_seq + 1, updated_at=now())
        .returning(Job.id, Job.project_id, Job.event_seq, Job.attempt)
    ).cte("moved")
    event = insert(JobEvent).from_select(
        ["job_id", "seq", "id", "project_id", "type", "attempt", "data"],
        select(
            moved.c.id, moved.c.event_seq, literal(new_id("event")), moved.c.project_id, literal(kind), moved.c.attempt,
            _jsonb(dict(data)),
        ),
    )  # fmt: skip
    return select(moved.c.event_seq).add_cte(event.cte("event"))


def lapsed(grace_s: float = 0) -> Select[str, int, int]:
    """Held jobs whose lease has run out: id, fence, failures before this one."""
    return (
        select(Job.id, Job.fence, Job.failures)
        .join(Attempt, and_(Attempt.job_id == Job.id, Attempt.fence == Job.fence))
        .where(Job.status.in_(HELD), Attempt.ended_at.is_(None), Attempt.lease_expires_at < now() - seconds(grace_s))
    )


def due_retries() -> Select[str]:
    """Jobs whose backoff is over."""
    return select(Job.id).where(Job.status == "retry_wait", Job.next_run_at <= now())


def due_messages(limit: int = 100) -> Select[Any]:
    """Unsent wake-ups, locked."""
    return (
        select(Outbox)
        .where(Outbox.send_at <= now())
        .order_by(Outbox.send_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )


def sent(ids: list[str]) -> Executable:
    """Send these again only if nobody has taken up their subject in a minute."""
    return update(Outbox).where(Outbox.id.in_(ids)).values(send_at=now() + seconds(NUDGE_AGAIN_S))


def unsent(ids: list[str]) -> Executable:
    """The broker did not take these: they are due again soon."""
    return update(Outbox).where(Outbox.id.in_(ids)).values(send_at=now() + seconds(1.0))


def forget_messages(subject_id: str) -> Delete:
    """The subject has been taken up."""
    return delete(Outbox).where(Outbox.subject_id == subject_id)


def superseded(job_id: Any, fence: Any, step: Any) -> ColumnElement[bool]:
    """Whether a later attempt went on from a step before `step`, so that this row tells of undone work."""
    later = Attempt.__table__.alias("later")
    return (
        select(literal(1))
        .where(later.c.job_id == job_id, later.c.fence > fence, later.c.resumed_from_step < step)
        .exists()
    )


def of_project(project_id: str) -> Select[Job]:
    """The jobs of a project."""
    return select(Job).where(Job.project_id == project_id).options(with_spent(Job.spent, Job.id))


def by_id(project_id: str, job_id: str) -> Select[Job]:
    """One job of a project."""
    return of_project(project_id).where(Job.id == job_id)


def set_limits(job_id: str, limits: Mapping[str, Any]) -> Executable:
    """Give a live job other limits; returns nothing if it has ended."""
    spec = Job.spec.op("||")(_jsonb({"limits": dict(limits)}))
    live = Job.status.not_in(TERMINAL)
    return update(Job).where(Job.id == job_id, live).values(spec=spec, updated_at=now()).returning(Job.id)
