"""The datasets that accepted revisions go to: those that are named, else new ones."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.queries import datasets as queries
from service.db.tables import Dataset
from service.domain.ids import new_id
from service.errors import Forbidden, Invalid
from service.operation import Caller

WRITES = "data:write"


async def target(session: AsyncSession, caller: Caller, kind: str, named: str | None, *, place: str, name: str) -> str:
    """The id of the dataset of this kind; 422 at `place` for one that cannot take such rows, 403 for a key that may not write any."""
    project = caller.project_id
    if not caller.has(WRITES):
        raise Forbidden(
            f"accepted rows are written into datasets, which needs the scope '{WRITES}', and the key {caller.key_prefix}… does not "
            "have it"
        )
    if named is not None:
        found = await session.scalar(queries.head(project, named))
        if found is None:
            raise Invalid.at(place, "not_found", f"there is no dataset '{named}'")
        if found.kind != kind:
            message = f"dataset '{named}' holds {found.kind}; {kind} are written here"
            raise Invalid.at(place, "wrong_kind", message)
        return found.id
    made = Dataset(
        id=new_id("dataset"), project_id=project, name=name[:200], kind=kind, batches=0, rows=0, last_seq=0, hash=""
    )
    session.add(made)
    await session.flush()
    return made.id
