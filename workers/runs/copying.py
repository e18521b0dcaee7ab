"""Rows by the hundred thousand: past the ORM, on the driver's own connection, in the session's transaction."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session


def copy_rows(session: Session, table: str, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows by COPY, in the session's transaction; all rows have the columns of the first.

    Dictionaries, and lists of them, are JSON; other lists are arrays.
    """
    if not rows:
        return
    columns = list(rows[0])
    names = ", ".join(f'"{name}"' for name in columns)
    with driver(session).cursor() as cursor, cursor.copy(f'COPY "{table}" ({names}) FROM STDIN') as copy:
        for row in rows:
            copy.write_row([_stored(row[name]) for name in columns])


def driver(session: Session) -> Any:
    """The driver's own connection, in the session's transaction: for what goes by the hundred thousand."""
    return session.connection().connection.driver_connection


def _stored(value: Any) -> Any:
    if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return value
