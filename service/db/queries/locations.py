"""Which folders of the artifact store are somebody's."""

from __future__ import annotations

from sqlalchemy import CompoundSelect, Select, select, union

from service.db.tables import Checkpoint, Model


def named_locations() -> CompoundSelect[str]:
    """The locations of every project's checkpoints and models; folders of a host are among them, and match nothing in a store."""
    models = select(Model.location).where(Model.location.is_not(None))
    return union(select(Checkpoint.location), models)


def registering_models() -> Select[str]:
    """Models whose files are being fetched: their folder may be there before their location is."""
    return select(Model.id).where(Model.status == "registering")
