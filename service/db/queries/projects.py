"""Projects and keys."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Select, func, or_, select

from service.db.tables import ApiKey, Project


def all_projects() -> Select[Project]:
    """Every project; for admins."""
    return select(Project)


def project(project_id: str) -> Select[Project]:
    """One project."""
    return select(Project).where(Project.id == project_id)


def keys(project_id: str) -> Select[ApiKey]:
    """The keys of a project."""
    return select(ApiKey).where(ApiKey.project_id == project_id)


def refused_keys(key_ids: Sequence[str]) -> Select[str]:
    """Those of these keys that open nothing any more: revoked, or expired."""
    over = or_(ApiKey.revoked_at.is_not(None), ApiKey.expires_at <= func.clock_timestamp())
    return select(ApiKey.id).where(ApiKey.id.in_(key_ids), over)


def key_by_hash(hashed: str) -> Select[ApiKey]:
    """The key that hashes to this."""
    return select(ApiKey).where(ApiKey.hash == hashed, ApiKey.revoked_at.is_(None))
