"""The first tables.

What cannot be added later is here from the first day: a project on every tenant table, an owner and an application role,
time partitions for what grows, fence, attempt, lease and event sequence on jobs, and triggers that keep versions and
terminal states as they are.

Revision ID: 0001
Revises: -
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None

PARTITIONED = ("completions", "cells", "job_metrics", "job_events", "job_logs")
IMMUTABLE = ("rubric_versions", "judge_revisions", "dataset_batches", "dataset_rows")

SQL = Path(__file__).parent.parent / "sql"


def upgrade() -> None:
    """Create everything; there are no rows yet."""
    for name in ("tables", "partitions", "triggers"):
        _run(name)
    for table in PARTITIONED:
        op.execute(f"CREATE TABLE {table}_default PARTITION OF {table} DEFAULT")
    op.execute("SELECT grape_make_partitions(12)")
    for table in IMMUTABLE:
        op.execute(
            f"CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE FUNCTION grape_refuse_change()"
        )
    _run("roles")


def _run(name: str) -> None:
    # The driver's own cursor: the text holds colons and percent signs that are not binds.
    cursor = op.get_bind().connection.cursor()
    cursor.execute((SQL / f"0001_{name}.sql").read_text())


def downgrade() -> None:
    """Drop everything; the role stays, it may hold grants elsewhere."""
    for table in (
        *PARTITIONED, "cell_requests", "cell_batches", "outbox", "checkpoints", "attempts", "jobs", "dataset_rows",
        "dataset_batches", "datasets", "models", "judge_revisions", "judges", "rubric_aliases", "rubric_versions", "rubrics",
        "idempotency_keys", "api_keys", "projects",
    ):  # fmt: skip
        op.execute(f"DROP TABLE {table}")
    for function in ("grape_make_partitions(integer)", "grape_keep_terminal()", "grape_refuse_change()"):
        op.execute(f"DROP FUNCTION {function}")
