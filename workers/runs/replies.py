"""What judges replied, on its way to the table: packed here, and inserted in the transaction that stores the cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from service.db.queries.cells import owner
from service.db.queries.replies import KEEP
from service.domain.replies import pack
from workers.graders.judge.record import Record
from workers.runs.copying import driver


@dataclass(frozen=True, slots=True)
class Kept:
    """A record with whose it is."""

    project_id: str
    owner_id: str
    record: Record


def keep(session: Session, found: Sequence[Kept], most: int) -> None:
    """Insert what was replied, at most `most` bytes of text for each question; what is there already stays."""
    if not found:
        return
    columns: list[list[object]] = [
        [kept.record.id for kept in found],
        [kept.record.created_at for kept in found],
        [kept.project_id for kept in found],
        [kept.owner_id if owner(kept.owner_id) == "job_id" else None for kept in found],
        [kept.owner_id if owner(kept.owner_id) == "grading_id" else None for kept in found],
        [kept.record.judge_id for kept in found],
        [kept.record.revision for kept in found],
        [pack(kept.record.votes, most) for kept in found],
    ]
    driver(session).execute(KEEP, columns)
