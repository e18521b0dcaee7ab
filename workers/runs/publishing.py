"""Publishing rows that this service has made, as a posted batch is published: all of them or none, duplicates left out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from service.db.queries import datasets as queries
from service.db.queries import revisions as revision_queries
from service.db.tables import Dataset
from service.domain.base import canonical_json
from service.domain.ids import new_id
from workers.runs.copying import driver

COLUMNS = {"preferences": "preference", "demonstrations": "demonstration"}
"""The kinds of datasets, and the column of the results that has their rows."""


def publish_accepted(
    session: Session, datasets: Mapping[str, str | None], project_id: str, **results: Any
) -> dict[str, int]:
    """The rows of accepted results (`queries.unpublished`) that no dataset has yet; how many were new, by kind of dataset."""
    published: dict[str, int] = {}
    done: set[str] = set()
    for kind, column in COLUMNS.items():
        dataset = datasets.get(kind)
        if dataset is not None:
            rows = session.execute(revision_queries.unpublished(column, **results)).all()
            published[kind] = publish(session, dataset, project_id, [row for _, row in rows])
            done |= {result_id for result_id, _ in rows}
    if done:
        session.execute(revision_queries.mark_published(done))
    return published


def publish(session: Session, dataset_id: str, project_id: str, rows: Sequence[dict[str, Any]]) -> int:
    """The next batch of a dataset, in the session's transaction; how many rows were new to it."""
    if not rows:
        return 0
    session.execute(queries.INCOMING)
    with driver(session).cursor() as cursor, cursor.copy(queries.COPY_INCOMING) as copy:
        for number, row in enumerate(rows, 1):
            written = canonical_json(row)
            copy.write_row((number, written, hashlib.sha256(written.encode()).digest()))
    statement = queries.head(project_id, dataset_id, lock=True).execution_options(populate_existing=True)
    head: Dataset = session.scalars(statement).one()
    values = {
        "dataset_id": head.id,
        "project_id": head.project_id,
        "batch_id": new_id("batch"),
        "number": head.batches + 1,
        "last_seq": head.last_seq,
        "hash": head.hash,
    }
    published = session.execute(queries.PUBLISH, values).one()
    if published.rows:
        head.batches, head.rows = head.batches + 1, head.rows + published.rows
        head.last_seq, head.hash = head.last_seq + published.rows, published.hash
        session.flush()
    session.execute(text("DROP TABLE incoming"))  # a transaction may publish into several datasets
    return int(published.rows)
