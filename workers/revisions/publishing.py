"""Accepted pairs become rows of datasets, in the transaction that ends their request."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from service.db.queries import revisions as queries
from workers.runs.gradings import HeldGrading
from workers.runs.publishing import publish_accepted


def conclusion(session: Session, held: HeldGrading, options: dict[str, Any]) -> dict[str, Any]:
    """Publish what was accepted, and the request's summary."""
    published = publish_accepted(session, options, held.project_id, request_id=held.id)
    return {**outcome(session.execute(queries.counted(held.id)).all()), "published": published}


def outcome(counts: Any) -> dict[str, Any]:
    """How many pairs were accepted, the share of them, and why the others were not."""
    total = sum(row.pairs for row in counts)
    accepted = sum(row.pairs for row in counts if row.accepted)
    reasons: dict[str, int] = {}
    for row in sorted(counts, key=lambda row: row.reason or ""):
        if not row.accepted:
            reasons[row.reason] = reasons.get(row.reason, 0) + row.pairs
    return {
        "pairs": total,
        "accepted": accepted,
        "accepted_share": accepted / total if total else None,
        "rejected": reasons,
    }
