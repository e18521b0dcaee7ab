"""What goes in and out of `/v1/projects` and `/v1/api-keys`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field

from service.db.tables import ApiKey, Project
from service.domain.base import Value, nearest
from service.domain.conversation import Name
from service.operation import SCOPES


def _scope(scope: str) -> str:
    if scope not in SCOPES:
        raise ValueError(f"unknown scope '{scope}'{nearest(scope, SCOPES)}")
    return scope


class ProjectIn(Value):
    """A new project."""

    name: Name


class ProjectOut(BaseModel):
    """A project."""

    id: str
    name: str
    created_at: datetime

    @classmethod
    def of(cls, row: Project) -> ProjectOut:
        """From its row."""
        return cls(id=row.id, name=row.name, created_at=row.created_at)


class ApiKeyIn(Value):
    """A new key; `project` is the caller's if it is absent."""

    name: Name
    project: str | None = None
    scopes: Annotated[list[Annotated[str, AfterValidator(_scope)]], Field(min_length=1)]
    expires_at: AwareDatetime | None = None


class ApiKeyOut(BaseModel):
    """A key without its secret."""

    id: str
    project: str
    name: str
    prefix: str
    scopes: list[str]
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    created_at: datetime

    @classmethod
    def of(cls, row: ApiKey) -> ApiKeyOut:
        """From its row."""
        return cls(
            id=row.id,
            project=row.project_id,
            name=row.name,
            prefix=row.prefix,
            scopes=list(row.scopes),
            expires_at=row.expires_at,
            revoked_at=row.revoked_at,
            last_used_at=row.last_used_at,
            created_at=row.created_at,
        )


class NewApiKeyOut(ApiKeyOut):
    """The only answer that shows the key."""

    key: str
