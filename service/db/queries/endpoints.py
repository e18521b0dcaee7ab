"""Judges' endpoints as grading workers share them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Delete, Executable, Select, delete, literal, select, update
from sqlalchemy.dialects.postgresql import insert

from service.db.queries.jobs import now, seconds
from service.db.tables import EndpointShare, EndpointState


def know(endpoint_id: str, base_url: str, model: str) -> Executable:
    """Make an endpoint's row, if it has none."""
    values = {"id": endpoint_id, "base_url": base_url, "model": model}
    return insert(EndpointState).values(**values).on_conflict_do_nothing(index_elements=["id"])


def lock(endpoint_id: str) -> Select[EndpointState]:
    """An endpoint, locked: who divides its slots is alone."""
    return select(EndpointState).where(EndpointState.id == endpoint_id).with_for_update()


def shares(endpoint_id: str) -> Select[EndpointShare]:
    """All shares of an endpoint."""
    return select(EndpointShare).where(EndpointShare.endpoint_id == endpoint_id)


def clock() -> Select[datetime]:
    """The database's time."""
    return select(now())


def put_share(values: Mapping[str, Any], lease_s: float) -> Executable:
    """Set a worker's share, with a fresh lease."""
    statement = insert(EndpointShare).values(**values, expires_at=now() + seconds(lease_s))
    excluded = statement.excluded
    names = ("process", "concurrency", "timeout_s", "demand", "slots", "expires_at")
    return statement.on_conflict_do_update(
        index_elements=["endpoint_id", "worker_id"], set_={name: excluded[name] for name in names}
    )


def drop_shares(endpoint_id: str, worker_ids: Sequence[str]) -> Delete:
    """Take shares away."""
    return delete(EndpointShare).where(
        EndpointShare.endpoint_id == endpoint_id, EndpointShare.worker_id.in_(worker_ids)
    )


def leave(worker_id: str) -> Delete:
    """All shares of a worker that asks no more."""
    return delete(EndpointShare).where(EndpointShare.worker_id == worker_id)


def change(endpoint_id: str, values: Mapping[str, Any]) -> Executable:
    """What has changed about an endpoint."""
    return update(EndpointState).where(EndpointState.id == endpoint_id).values(**values, used_at=now())


def forgotten(after_s: float) -> Delete:
    """Endpoints that nobody has asked for so long."""
    shared = select(literal(1)).where(EndpointShare.endpoint_id == EndpointState.id)
    return delete(EndpointState).where(EndpointState.used_at < now() - seconds(after_s), ~shared.exists())
