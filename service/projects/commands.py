"""Making projects and keys; `grape up` calls these for the first ones."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

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
