"""Projects and keys."""

from __future__ import annotations

from sqlalchemy import Select, select

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


def key_by_hash(hashed: str) -> Select[ApiKey]:
    """The key that hashes to this."""
    return select(ApiKey).where(ApiKey.hash == hashed, ApiKey.revoked_at.is_(None))
