"""What a worker process holds of a leased table: kept, found lost, given back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

from sqlalchemy import Executable
from sqlalchemy.orm import Session

from service.db.engine import Database


class LeaseQueries(Protocol):
    """A noun's queries, as a module has them."""

    def renew(self, held: Mapping[str, int], worker_id: str, lease_s: float) -> Executable:
        """Renew leases; returns id and fence of what is still held."""

    def release(self, worker_id: str) -> Executable:
        """Give back what this worker holds."""


class Leases:
    """Mixed into who claims rows; `worker_id` stands in the rows that it holds."""

    __slots__ = ()
    rows: ClassVar[LeaseQueries]
    database: Database
    lease_s: float
    worker_id: str

    def renew(self, held: Mapping[str, int]) -> set[str]:
        """Renew the leases of these (id -> fence); those that we still hold."""
        statement = self.rows.renew(held, self.worker_id, self.lease_s)
        with self.database.transaction() as session:
            return {row_id for row_id, fence in session.execute(statement) if held.get(row_id) == fence}

    def release(self) -> None:
        """Give everything back, for another worker to take at once."""
        with self.database.transaction() as session:
            session.execute(self.rows.release(self.worker_id))
            self.released(session)

    def released(self, session: Session) -> None:
        """What else goes back with the rows, in the same transaction."""
