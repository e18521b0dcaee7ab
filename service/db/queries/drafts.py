"""Requests for drafts of criteria: rows of `gradings`, which name their rubric in `source`."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Select, select

from service.db.queries.spent import with_spent
from service.db.tables import AcceptedDraft, Grading

DRAFTING = "drafting"


def of_rubric(project_id: str, rubric_id: str) -> Select[Grading]:
    """A rubric's requests."""
    asked = select(Grading).where(Grading.project_id == project_id, Grading.purpose == DRAFTING)
    return asked.where(Grading.source["rubric"].astext == rubric_id).options(with_spent(Grading.spent, Grading.id))


def by_id(project_id: str, rubric_id: str, draft_id: str) -> Select[Grading]:
    """One of them."""
    return of_rubric(project_id, rubric_id).where(Grading.id == draft_id)


def accepted(request_ids: Collection[str]) -> Select[AcceptedDraft]:
    """What of these has become criteria, in the order of versions."""
    found = select(AcceptedDraft).where(AcceptedDraft.request_id.in_(request_ids))
    return found.order_by(AcceptedDraft.version, AcceptedDraft.created_at, AcceptedDraft.draft)
