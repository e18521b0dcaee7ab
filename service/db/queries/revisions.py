"""Requests for revisions and for labelled pairs (rows of `gradings`), what they are about, and what became of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Executable, Select, TextClause, func, insert, select, text, update

from service.db.queries.grading_items import members
from service.db.queries.jobs import now, superseded
from service.db.queries.spent import with_spent
from service.db.tables import Completion, Grading, GradingGroup, GradingItem, RevisionResult

REVISION, LABELLING = "revision", "labelling"

Results = Select[RevisionResult]


def of_project(project_id: str, purpose: str) -> Select[Grading]:
    """A project's requests of a purpose."""
    asked = select(Grading).where(Grading.project_id == project_id, Grading.purpose == purpose)
    return asked.options(with_spent(Grading.spent, Grading.id))


def by_id(project_id: str, purpose: str, request_id: str) -> Select[Grading]:
    """One of them."""
    return of_project(project_id, purpose).where(Grading.id == request_id)


def source_of(
    *,
    completions: Sequence[str] | None = None,
    job: str | None = None,
    purpose: str | None = None,
    grading: str | None = None,
) -> list[Any]:
    """The conditions that say which stored completions a source has."""
    if completions is not None:
        return [Completion.id.in_(completions)]
    if job is not None:
        undone = superseded(Completion.job_id, Completion.fence, Completion.step)
        return [Completion.job_id == job, Completion.purpose == purpose, ~undone]
    return [Completion.grading_id == grading]


def versions_in(conditions: Sequence[Any]) -> Select[str, int]:
    """The rubric versions that these completions were graded by."""
    return select(Completion.rubric_id, Completion.rubric_version).where(*conditions).distinct()


_SOURCE = {
    "completions": """unnest(CAST(:ids AS text[])) WITH ORDINALITY AS n(id, place)
                      JOIN completions c ON c.id = n.id AND c.project_id = :project_id""",
    "job": """completions c WHERE c.job_id = :job_id AND c.purpose = :purpose AND NOT EXISTS (
                  SELECT FROM attempts a
                  WHERE a.job_id = c.job_id AND a.fence > c.fence AND a.resumed_from_step < c.step)""",
    "grading": "completions c WHERE c.grading_id = :source_id",
}

# Among completions of equal reward the first is the best one, and the last the worst. Groups are those of one rubric version.
_ADD = """
    WITH source AS (
        SELECT c.id, c.created_at, c.plain_reward, concat(c.group_id, ':', c.rubric_id, '/', c.rubric_version) AS grp,
               row_number() OVER (ORDER BY {order}) AS nth
        FROM {source}
    ), ranked AS (
        SELECT *, max(plain_reward) OVER (PARTITION BY grp) AS top,
               row_number() OVER (PARTITION BY grp ORDER BY plain_reward, nth DESC) AS worst,
               row_number() OVER (PARTITION BY grp ORDER BY plain_reward DESC NULLS LAST, nth) AS best,
               count(plain_reward) OVER (PARTITION BY grp) AS size
        FROM source {having_a_reward}
    ), chosen AS (
        SELECT concat('r:', id) AS group_key, 0 AS place, id, created_at, nth FROM ranked
        WHERE CAST(:revises AS boolean) AND (CAST(:each AS boolean) OR (plain_reward < top
              AND (CAST(:per_group AS integer) IS NULL OR worst <= CAST(:per_group AS integer))))
        UNION ALL
        SELECT concat('p:', grp), CASE WHEN worst = 1 THEN 0 ELSE 1 END, id, created_at, min(nth) OVER (PARTITION BY grp)
        FROM ranked WHERE CAST(:pairs AS boolean) AND size > 1 AND (worst = 1 OR best = 1) AND plain_reward IS NOT NULL
    )
    INSERT INTO grading_items (grading_id, position, project_id, group_key, completion_id, completion_created_at)
    SELECT :grading_id, row_number() OVER (ORDER BY nth, group_key, place) - 1, :project_id, group_key, id, created_at
    FROM chosen
"""

_ORDER = {"completions": "n.place", "job": "c.step, c.group_index, c.idx, c.fence", "grading": "c.position"}


def add_items(kind: str, *, each: bool) -> TextClause:
    """What of a source is revised (groups `r:…` of one), and best beside worst (groups `p:…` of two, the worst first).

    `each`: all of them are revised; else those below their group's best plain reward, the `per_group` worst.
    """
    having = "" if each else "WHERE plain_reward IS NOT NULL"
    return text(_ADD.format(order=_ORDER[kind], source=_SOURCE[kind], having_a_reward=having))


ADD_NAMED_PAIRS: TextClause = text(
    """
    INSERT INTO grading_items (grading_id, position, project_id, group_key, completion_id, completion_created_at)
    SELECT :grading_id, n.place - 1, :project_id, concat('p:', (n.place - 1) / 2), c.id, c.created_at
    FROM unnest(CAST(:ids AS text[])) WITH ORDINALITY AS n(id, place)
    JOIN completions c ON c.id = n.id AND c.project_id = :project_id
    """
)
"""Named completions in twos."""


def count_items(request_id: str) -> Select[int, int]:
    """How many items a request has, and how many pairs they make."""
    pairs = func.count(func.distinct(GradingItem.group_key))
    return select(func.count(), pairs).where(GradingItem.grading_id == request_id)


def pairs(request_id: str, numbers: Collection[int]) -> Select[*tuple[Any, ...]]:
    """The completions of these groups, in order of group and position, with what they were graded by."""
    names = ("prompt", "text", "group_id", "rubric_id", "rubric_version", "plain_reward")
    columns = [GradingGroup.group_key, GradingItem.completion_id, *[getattr(Completion, name) for name in names]]
    return members(request_id, numbers, columns)


def counted(request_id: str) -> Select[str, bool, str | None, int]:
    """How many of a request's results are of each kind and outcome."""
    columns = (RevisionResult.kind, RevisionResult.accepted, RevisionResult.reason)
    return (
        select(*columns, func.count().label("pairs")).where(RevisionResult.request_id == request_id).group_by(*columns)
    )


def prompts_of(ids: Sequence[str]) -> Select[str, Any]:
    """What these completions answer."""
    return select(Completion.id, Completion.prompt["messages"].label("messages")).where(Completion.id.in_(ids))


# --- what became of them ---


def results(*, request_id: str | None = None, job_id: str | None = None) -> Results:
    """The outcomes of a request, or of a job's steps that no later attempt has undone."""
    if request_id is not None:
        return select(RevisionResult).where(RevisionResult.request_id == request_id)
    undone = superseded(RevisionResult.job_id, RevisionResult.fence, RevisionResult.step)
    return select(RevisionResult).where(RevisionResult.job_id == job_id, ~undone)


def add_results(rows: Sequence[Mapping[str, Any]]) -> tuple[Executable, list[dict[str, Any]]]:
    """Outcomes, as a statement and its rows."""
    return insert(RevisionResult), [dict(row) for row in rows]


def unpublished(
    kind: str, *, request_id: str | None = None, job_id: str | None = None, up_to: int | None = None
) -> Select[str, Any]:
    """The rows (`preference` or `demonstration`) of accepted ones that no dataset has yet, in order."""
    column = getattr(RevisionResult, kind)
    found = results(request_id=request_id, job_id=job_id).with_only_columns(RevisionResult.id, column)
    found = found.where(column.is_not(None), RevisionResult.published_at.is_(None))
    if up_to is not None:
        found = found.where(RevisionResult.step <= up_to)
    return found.order_by(RevisionResult.step, RevisionResult.position, RevisionResult.id)


def mark_published(ids: Collection[str]) -> Executable:
    """They stand in a dataset now."""
    return update(RevisionResult).where(RevisionResult.id.in_(ids)).values(published_at=now())


CRITIQUES: TextClause = text(
    """
    SELECT o.id AS completion_id, c.criterion, coalesce(l.score, c.score) AS score,
           nullif(concat_ws(E'\n', CASE WHEN judge.told THEN c.reasoning END, people.said), '') AS reasoning,
           CASE WHEN judge.told THEN c.critique_id END AS critique_id, coalesce(people.ids, '{}') AS people
    FROM completions o JOIN cells c ON c.completion_id = coalesce(o.cells_of, o.id)
    LEFT JOIN LATERAL (
        SELECT array_agg(w.id ORDER BY w.id) AS ids, string_agg(w.text, E'\n' ORDER BY w.id) AS said,
               bool_or(w.corrects = c.critique_id) AS corrected
        FROM critiques w
        WHERE w.completion_id IN (o.id, o.cells_of) AND w.criterion = c.criterion
          AND NOT EXISTS (SELECT FROM hidden_critiques h WHERE h.critique_id = w.id)
    ) people ON true
    LEFT JOIN LATERAL (
        SELECT s.score FROM labels s
        WHERE s.completion_id IN (o.id, o.cells_of) AND s.corrects = c.critique_id AND s.replaced_at IS NULL
        ORDER BY s.id DESC LIMIT 1
    ) l ON true
    CROSS JOIN LATERAL (
        SELECT NOT coalesce(people.corrected, false)
               AND NOT EXISTS (SELECT FROM hidden_critiques h WHERE h.critique_id = c.critique_id) AS told
    ) judge
    WHERE o.id = ANY(CAST(:ids AS text[])) AND (o.reused IS NULL OR c.criterion = ANY(o.reused))
    ORDER BY o.id, c.criterion
    """
)
"""What judges said about these completions when they were graded, and what people have said since: their corrections stand in place
of what they correct, and what somebody has hidden is left out. `people`: the ids of their critiques."""
