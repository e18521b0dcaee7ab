"""Projects, their API keys, and the answers that idempotency keys replay."""

from __future__ import annotations

from sqlalchemy.orm import Mapped, mapped_column

from service.db.tables.base import Base, Created, Id, Json, Moment, ProjectId, Texts


class Project(Base):
    """A tenant."""

    __tablename__ = "projects"

    id: Mapped[Id]
    name: Mapped[str]
    created_at: Mapped[Created]


class ApiKey(Base):
    """A key, stored as a keyed hash."""

    __tablename__ = "api_keys"

    id: Mapped[Id]
    project_id: Mapped[ProjectId]
    name: Mapped[str]
    prefix: Mapped[str]
    hash: Mapped[str] = mapped_column(unique=True)
    scopes: Mapped[Texts]
    expires_at: Mapped[Moment | None]
    revoked_at: Mapped[Moment | None]
    last_used_at: Mapped[Moment | None]
    created_at: Mapped[Created]


class IdempotencyKey(Base):
    """What was answered to the first request with this key."""

    __tablename__ = "idempotency_keys"

    project_id: Mapped[ProjectId] = mapped_column(primary_key=True)
    method: Mapped[str] = mapped_column(primary_key=True)
    path: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    body_hash: Mapped[str]
    status: Mapped[int]
    headers: Mapped[Json]
    body: Mapped[bytes]
    created_at: Mapped[Created]
