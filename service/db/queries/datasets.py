"""Datasets: heads, batches, rows.

A batch is published in one transaction: its rows are copied into a temporary table while they arrive; then the head is
locked, rows that the dataset has already are left out, the others get the next sequence numbers, and the hash chain grows.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Select, TextClause, func, or_, select, text

from service.db.tables import Dataset, DatasetRow


def heads(project_id: str) -> Select[Dataset]:
    """The datasets of a project."""
    return select(Dataset).where(Dataset.project_id == project_id)


def head(project_id: str, dataset_id: str, *, lock: bool = False) -> Select[Dataset]:
    """One dataset."""
    statement = heads(project_id).where(Dataset.id == dataset_id)
    return statement.with_for_update() if lock else statement


def rows(dataset_id: str) -> Select[DatasetRow]:
    """The rows of a dataset."""
    return select(DatasetRow).where(DatasetRow.dataset_id == dataset_id)


def rows_between(dataset_id: str, after: int, last: int, limit: int) -> Select[DatasetRow]:
    """Rows `after < seq <= last`, in order."""
    return rows(dataset_id).where(DatasetRow.seq > after, DatasetRow.seq <= last).order_by(DatasetRow.seq).limit(limit)


def outside_categories(dataset_id: str, last_seq: int, categories: Collection[str]) -> Select[str | None, int]:
    """The categories of rows up to `last_seq` that are none of these (null: rows without one), most rows first."""
    category = DatasetRow.content["category"].astext
    count = func.count()
    return (
        select(category.label("category"), count.label("rows"))
        .where(DatasetRow.dataset_id == dataset_id, DatasetRow.seq <= last_seq)
        .where(or_(category.is_(None), category.not_in(list(categories))))
        .group_by(category)
        .order_by(count.desc(), category)
    )


def prompt_count(project_id: str) -> Select[int]:
    """How many prompts a project has published."""
    return select(func.coalesce(func.sum(Dataset.rows), 0)).where(
        Dataset.project_id == project_id, Dataset.kind == "prompts"
    )


def _prompts_of(project_id: str) -> Select[str]:
    return select(Dataset.id).where(Dataset.project_id == project_id, Dataset.kind == "prompts")


def prompt_categories(project_id: str) -> Select[str]:
    """Every category that a project's prompts have."""
    category = DatasetRow.content["category"].astext
    return select(category).distinct().where(DatasetRow.dataset_id.in_(_prompts_of(project_id)), category.is_not(None))


def prompt_tags(project_id: str) -> Select[str]:
    """Every tag that a project's prompts have."""
    tags = func.jsonb_array_elements_text(DatasetRow.content["tags"])
    having = func.jsonb_typeof(DatasetRow.content["tags"]) == "array"
    return select(tags).distinct().where(DatasetRow.dataset_id.in_(_prompts_of(project_id)), having)


JUDGED_COLUMNS = (
    "c.criterion #>> '{grader,judge}', CAST(c.criterion #>> '{grader,votes}' AS integer), "
    "c.criterion #>> '{grader,confidence}', c.criterion #>> '{scale,type}'"
)
"""Of a criterion `c.criterion` that a prompt brings along: judge, votes, confidence, type of the scale."""


def named_by_criteria(field: str) -> TextClause:
    """What the graders of rows' own criteria name in `field` (e.g. `judge`): each value with the first row that names it."""
    return text(
        f"""
        SELECT DISTINCT ON (value) value, seq FROM (
            SELECT r.seq, found #>> '{{}}' AS value
            FROM dataset_rows r, jsonb_path_query(r.content, '$.criteria[*].grader.**.{field}') AS found
            WHERE r.dataset_id = :dataset_id AND r.seq <= :last_seq AND jsonb_exists(r.content, 'criteria')
        ) AS named
        ORDER BY value, seq
        """  # noqa: S608 (a name from our own code)
    )


JUDGED_BY_ROWS: TextClause = text(
    f"""
    SELECT DISTINCT ON ({JUDGED_COLUMNS}) r.seq, c.criterion ->> 'key' AS key, {JUDGED_COLUMNS}
    FROM dataset_rows r, jsonb_array_elements(r.content -> 'criteria') AS c(criterion)
    WHERE r.dataset_id = :dataset_id AND r.seq <= :last_seq AND jsonb_exists(r.content, 'criteria')
      AND c.criterion #>> '{{grader,type}}' = 'judge'
    ORDER BY {JUDGED_COLUMNS}, r.seq
    """  # noqa: S608 (our own text)
)
"""What rows' own criteria ask of judges, each combination with the first row that has it."""

INCOMING: TextClause = text(
    "CREATE TEMP TABLE incoming (position bigint, content jsonb, content_hash bytea) ON COMMIT DROP"
)
COPY_INCOMING = "COPY incoming (position, content, content_hash) FROM STDIN"

PUBLISH: TextClause = text(
    """
    WITH fresh AS (
        SELECT content, content_hash, row_number() OVER (ORDER BY position) AS nth
        FROM (SELECT DISTINCT ON (content_hash) position, content, content_hash FROM incoming
              ORDER BY content_hash, position) AS first_of_each
        WHERE NOT EXISTS (SELECT FROM dataset_rows r
                          WHERE r.dataset_id = :dataset_id AND r.content_hash = first_of_each.content_hash)
    ), inserted AS (
        INSERT INTO dataset_rows (dataset_id, seq, project_id, batch_id, content, content_hash)
        SELECT :dataset_id, :last_seq + nth, :project_id, :batch_id, content, content_hash FROM fresh
        RETURNING seq, content_hash
    ), summary AS (
        SELECT count(*) AS rows, encode(sha256(convert_to(:hash, 'UTF8')
                   || coalesce(string_agg(content_hash, ''::bytea ORDER BY seq), ''::bytea)), 'hex') AS hash
        FROM inserted
    ), batch AS (
        INSERT INTO dataset_batches (id, dataset_id, project_id, number, first_seq, last_seq, rows, hash)
        SELECT :batch_id, :dataset_id, :project_id, :number, :last_seq + 1, :last_seq + rows, rows, hash
        FROM summary WHERE rows > 0
    )
    SELECT rows, hash FROM summary
    """
)
