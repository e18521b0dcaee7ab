"""Rows that one worker at a time holds until its lease ends: gradings, and batches of judged cells.

Every claim raises the fence, so that a worker whose lease has lapsed writes nothing more (jobs have the same with more states:
`queries.jobs`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Executable, Select, and_, update

from service.db.queries.jobs import now, seconds
from service.db.tables import CellBatch, Grading

Leased = type[CellBatch] | type[Grading]


def has_lapsed(table: Leased) -> ColumnElement[bool]:
    """Whether its worker has let the lease end."""
    return and_(table.status == "running", table.lease_expires_at < now())


def take(
    table: Leased, free: Select[Any], worker_id: str, lease_s: float, returning: Sequence[Any], **values: Any
) -> Executable:
    """Claim the rows whose ids `free` selects, passing over those that somebody else is claiming at this moment."""
    found = free.with_for_update(of=table, skip_locked=True).cte("free")
    taken = {"status": "running", "fence": table.fence + 1, "worker_id": worker_id}
    return (
        update(table)
        .where(table.id == found.c.id)
        .values(**taken, lease_expires_at=now() + seconds(lease_s), **values)
        .returning(*returning)
    )


def renew(
    table: Leased, held: Mapping[str, int], worker_id: str, lease_s: float, *wanted: ColumnElement[bool]
) -> Executable:
    """Renew leases; returns id and fence of what this worker still holds and (`wanted`) somebody still waits for."""
    return (
        update(table)
        .where(table.id.in_(list(held)), table.worker_id == worker_id, table.status == "running", *wanted)
        .values(lease_expires_at=now() + seconds(lease_s))
        .returning(table.id, table.fence)
    )


def release(table: Leased, worker_id: str, **values: Any) -> Executable:
    """Give back everything that this worker holds, for another to take at once."""
    return (
        update(table)
        .where(table.worker_id == worker_id, table.status == "running")
        .values(status="queued", worker_id=None, lease_expires_at=None, **values)
    )
