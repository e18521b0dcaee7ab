"""Critiques become data: what judges replied is kept, and what people and revisions say stands beside it.

One SQL file per topic, run in order; each has its way back in the file beside it (`…_down.sql`).

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "0004"
down_revision = "0003"

TOPICS = ("replies", "revisions", "labels")

SQL = Path(__file__).parent.parent / "sql"


def upgrade() -> None:
    """Add columns and tables."""
    for topic in TOPICS:
        _run(f"0004_{topic}")


def downgrade() -> None:
    """Take them away again, last first."""
    for topic in reversed(TOPICS):
        _run(f"0004_{topic}_down")


def _run(name: str) -> None:
    # The driver's own cursor: the text holds colons and percent signs that are not binds.
    op.get_bind().connection.cursor().execute((SQL / f"{name}.sql").read_text())
