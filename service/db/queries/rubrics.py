"""Rubric heads, versions, aliases."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Select, false, select, tuple_
from sqlalchemy.dialects.postgresql import Insert, insert

from service.db.queries.jobs import now
from service.db.tables import Rubric, RubricAlias, RubricVersion


def heads(project_id: str) -> Select[Rubric]:
    """The rubrics of a project."""
    return select(Rubric).where(Rubric.project_id == project_id)


def head(project_id: str, rubric_id: str, *, lock: bool = False) -> Select[Rubric]:
    """One rubric."""
    statement = heads(project_id).where(Rubric.id == rubric_id)
    return statement.with_for_update() if lock else statement


def versions(rubric_id: str) -> Select[RubricVersion]:
    """All versions of a rubric."""
    return select(RubricVersion).where(RubricVersion.rubric_id == rubric_id)


def version(rubric_id: str, number: int) -> Select[RubricVersion]:
    """One version."""
    return versions(rubric_id).where(RubricVersion.version == number)


def named(rubric_id: str, name: int | str) -> Select[RubricVersion]:
    """A version by number, alias or `latest`; no row if there is none of this name."""
    if isinstance(name, str) and name.isascii() and name.isdigit():
        name = int(name) if len(name) < 10 else 2**31
    if isinstance(name, int):
        return version(rubric_id, name) if name < 2**31 else versions(rubric_id).where(false())
    if name == "latest":
        head_of = select(Rubric.latest_version).where(Rubric.id == rubric_id)
        return versions(rubric_id).where(RubricVersion.version == head_of.scalar_subquery())
    alias = select(RubricAlias.version).where(RubricAlias.rubric_id == rubric_id, RubricAlias.alias == name)
    return versions(rubric_id).where(RubricVersion.version == alias.scalar_subquery())


def these_versions(pins: Collection[tuple[str, int]]) -> Select[RubricVersion]:
    """The versions of these `(rubric, number)` pairs."""
    return select(RubricVersion).where(tuple_(RubricVersion.rubric_id, RubricVersion.version).in_(list(pins)))


def aliases(rubric_ids: list[str]) -> Select[RubricAlias]:
    """The aliases of these rubrics."""
    return select(RubricAlias).where(RubricAlias.rubric_id.in_(rubric_ids)).order_by(RubricAlias.alias)


def set_alias(project_id: str, rubric_id: str, alias: str, number: int) -> Insert:
    """Point an alias at a version."""
    return (
        insert(RubricAlias)
        .values(project_id=project_id, rubric_id=rubric_id, alias=alias, version=number, updated_at=now())
        .on_conflict_do_update(index_elements=["rubric_id", "alias"], set_={"version": number, "updated_at": now()})
    )
