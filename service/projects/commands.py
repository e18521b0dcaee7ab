"""Making projects and keys; `grape up` and `python -m service.projects` call these for the first ones."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from service.db.queries import projects as queries
from service.db.tables import ApiKey, Project
from service.domain.ids import new_id
from service.security import PREFIX_LENGTH, Vault, new_api_key


def make_project(name: str) -> Project:
    """A project row."""
    return Project(id=new_id("project"), name=name)


def make_key(
    vault: Vault, project_id: str, name: str, scopes: Sequence[str], expires_at: datetime | None = None
) -> tuple[ApiKey, str]:
    """A key row, and the key itself, which is stored nowhere."""
    key = new_api_key()
    row = ApiKey(
        id=new_id("key"),
        project_id=project_id,
        name=name,
        prefix=key[:PREFIX_LENGTH],
        hash=vault.hash_key(key),
        scopes=sorted(set(scopes)),
        expires_at=expires_at,
    )
    return row, key


def admin_key(session: Session, vault: Vault, name: str) -> str:
    """A new key that may do everything in the first project, which is made if there is none."""
    project = session.scalar(queries.all_projects().order_by(Project.id).limit(1))
    if project is None:
        project = make_project("default")
        session.add(project)
        session.flush()
    row, key = make_key(vault, project.id, name, ["admin"])
    session.add(row)
    return key
