"""What endpoints can do, as asking them has shown."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Delete, Select, and_, delete, select, text
from sqlalchemy.orm import InstrumentedAttribute, with_expression
from sqlalchemy.sql.base import ExecutableOption

from service.db.queries.jobs import now, seconds
from service.db.tables import EndpointAbilities, JudgeRevision
from service.domain.abilities import LEARNED_DAYS


def _lately() -> ColumnElement[bool]:
    return EndpointAbilities.updated_at > now() - seconds(LEARNED_DAYS * 86_400)


def learned_at(project_id: str, base_url: str, model: str) -> Select[Any]:
    """What was learned of this model at this address lately."""
    return select(EndpointAbilities.learned).where(
        EndpointAbilities.project_id == project_id,
        EndpointAbilities.base_url == base_url,
        EndpointAbilities.model == model,
        _lately(),
    )


def of_revision() -> ColumnElement[bool]:
    """What belongs to the endpoint of a judge's revision."""
    endpoint = JudgeRevision.config["endpoint"]
    return and_(
        EndpointAbilities.project_id == JudgeRevision.project_id,
        EndpointAbilities.base_url == endpoint["base_url"].as_string(),
        EndpointAbilities.model == endpoint["model"].as_string(),
        _lately(),
    )


def with_learned(learned: InstrumentedAttribute[Any]) -> ExecutableOption:
    """Fill `learned` in a query that has the judge's revision."""
    found = select(EndpointAbilities.learned).where(of_revision())
    return with_expression(learned, found.correlate(JudgeRevision).scalar_subquery())


def outdated() -> Delete:
    """What was learned so long ago that it counts no more."""
    return delete(EndpointAbilities).where(~_lately())


LEARN = text(
    """
    INSERT INTO endpoint_abilities (project_id, base_url, model, learned)
    SELECT a.project_id, a.base_url, a.model, a.learned
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS a(project_id text, base_url text, model text, learned jsonb)
    ORDER BY a.project_id, a.base_url, a.model
    ON CONFLICT (project_id, base_url, model)
    DO UPDATE SET learned = endpoint_abilities.learned || excluded.learned, updated_at = clock_timestamp()
    """
)
"""Add what a worker has learned; the newest counts."""
