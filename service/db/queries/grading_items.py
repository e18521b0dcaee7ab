"""What a grading holds on its way: items in input order, groups of them, open questions; and what is made of stored cells."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Executable, Select, TextClause, and_, any_, func, or_, select, text, update
from sqlalchemy.orm import aliased

from service.db.tables import CellBatch, CellRow, Completion, GradingGroup, GradingItem

ADD_TEXTS: TextClause = text(
    """
    INSERT INTO grading_items (grading_id, position, project_id, group_key, prompt, text)
    SELECT :grading_id, r.position, :project_id, r.group_key, r.prompt, r.text
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS r(position integer, group_key text, prompt jsonb, text text)
    """
)


def split_by(names: Mapping[str, str] | None) -> dict[str, Any]:
    """How stored groups are told apart, as parameters of the statements below: what is graded by two versions is two groups.

    `names`: version by category; null where each completion keeps the version that it was graded by.
    """
    several = names is not None and len(set(names.values())) > 1
    return {"by_version": names is None, "by_category": json.dumps(dict(names or {})) if several else None}


_STORED = """
    INSERT INTO grading_items (grading_id, position, project_id, group_key, completion_id, completion_created_at)
    SELECT :grading_id, row_number() OVER (ORDER BY {order}) - 1, :project_id,
           CASE WHEN :by_version THEN concat(c.group_id, ':', c.rubric_id, '/', c.rubric_version)
                WHEN CAST(:by_category AS jsonb) IS NOT NULL THEN concat(c.group_id, ':', coalesce(
                    CAST(:by_category AS jsonb) ->> (c.prompt ->> 'category'), CAST(:by_category AS jsonb) ->> '*'))
                ELSE c.group_id END,
           c.id, c.created_at
    FROM {source}
"""

ADD_COMPLETIONS: TextClause = text(
    _STORED.format(
        order="n.place",
        source="""unnest(CAST(:ids AS text[])) WITH ORDINALITY AS n(id, place)
                  JOIN completions c ON c.id = n.id AND c.project_id = :project_id""",
    )
)
"""Named completions, in the order of their names; unknown ones are not there."""

ADD_JOB: TextClause = text(
    _STORED.format(
        order="c.step, c.group_index, c.idx, c.fence",
        source="""completions c WHERE c.job_id = :job_id AND c.purpose = :purpose AND NOT EXISTS (
                      SELECT FROM attempts a
                      WHERE a.job_id = c.job_id AND a.fence > c.fence AND a.resumed_from_step < c.step)""",
    )
)
"""A job's completions that no later attempt has undone, in the order of their list."""

ADD_GRADING: TextClause = text(
    _STORED.format(order="c.position", source="completions c WHERE c.grading_id = :source_id")
)


def stored_numbers(grading_id: str) -> Select[*tuple[Any, ...]]:
    """The completions of finished groups, with what decides their criteria."""
    return select(
        Completion.id,
        Completion.group_index,
        Completion.rubric_id,
        Completion.rubric_version,
        Completion.prompt,
        Completion.plain_reward,
        Completion.reward,
        Completion.coverage,
        Completion.signal,
    ).where(Completion.grading_id == grading_id)


def stored_cells(grading_id: str) -> Select[*tuple[Any, ...]]:
    """Their cells: those of their own, or those that they were aggregated anew from."""
    theirs = and_(
        CellRow.completion_id == func.coalesce(Completion.cells_of, Completion.id),
        CellRow.created_at == func.coalesce(Completion.cells_created_at, Completion.created_at),
        or_(Completion.reused.is_(None), CellRow.criterion == any_(Completion.reused)),
    )
    return (
        select(Completion.id, CellRow.criterion, CellRow.status, CellRow.score, CellRow.confidence)
        .join(CellRow, theirs)
        .where(Completion.grading_id == grading_id)
    )


PLAN: TextClause = text(
    """
    INSERT INTO grading_groups (grading_id, number, project_id, group_key, size, status)
    SELECT :grading_id, row_number() OVER (ORDER BY min(position)) - 1, :project_id, group_key, count(*), 'waiting'
    FROM grading_items WHERE grading_id = :grading_id GROUP BY group_key
    """
)


_ASKED = aliased(Completion)
"""The completion whose cells another one has, that was aggregated anew: what its graders were asked stands there."""


def _with_asked(statement: Any) -> Any:
    return statement.outerjoin(
        _ASKED, and_(_ASKED.id == Completion.cells_of, _ASKED.created_at == Completion.cells_created_at)
    )


_ASKED_BY = (
    func.coalesce(_ASKED.rubric_id, Completion.rubric_id).label("asked_id"),
    func.coalesce(_ASKED.rubric_version, Completion.rubric_version).label("asked_version"),
)


def kinds_of_prompts(grading_id: str) -> Select[*tuple[Any, ...]]:
    """How many items there are of each kind of prompt and, for stored completions, of each rubric version."""
    prompt = func.coalesce(GradingItem.prompt, Completion.prompt)
    parts = [
        Completion.rubric_id,
        Completion.rubric_version,
        *_ASKED_BY,
        *[prompt[name].label(name) for name in ("category", "tags", "criteria")],
    ]
    statement = select(*parts, func.count().label("items")).select_from(GradingItem).outerjoin(Completion, _stored())
    found: Select[*tuple[Any, ...]] = _with_asked(statement)
    return found.where(GradingItem.grading_id == grading_id).group_by(*parts)


def _stored() -> ColumnElement[bool]:
    return and_(Completion.id == GradingItem.completion_id, Completion.created_at == GradingItem.completion_created_at)


def open_groups(grading_id: str, status: str, after: int = -1, limit: int | None = None) -> Select[int, int]:
    """Number and size of the groups in this state whose number is above `after`, in order."""
    return (
        select(GradingGroup.number, GradingGroup.size)
        .where(GradingGroup.grading_id == grading_id, GradingGroup.status == status, GradingGroup.number > after)
        .order_by(GradingGroup.number)
        .limit(limit)
    )


def members(
    grading_id: str, numbers: Collection[int], columns: Sequence[Any], *, asked: bool = False
) -> Select[*tuple[Any, ...]]:
    """These columns of groups' members, in order of group and position; stored completions stand beside their items."""
    statement = (
        select(GradingGroup.number, GradingItem.position, *columns)
        .select_from(GradingGroup)
        .join(
            GradingItem,
            and_(GradingItem.grading_id == GradingGroup.grading_id, GradingItem.group_key == GradingGroup.group_key),
        )
        .outerjoin(Completion, _stored())
    )
    if asked:
        statement = _with_asked(statement)
    return statement.where(GradingGroup.grading_id == grading_id, GradingGroup.number.in_(numbers)).order_by(
        GradingGroup.number, GradingItem.position
    )


def texts_of(grading_id: str, numbers: Collection[int]) -> Select[*tuple[Any, ...]]:
    """The members of these groups with prompt and text, to be graded."""
    prompt, text_ = (
        func.coalesce(GradingItem.prompt, Completion.prompt),
        func.coalesce(GradingItem.text, Completion.text),
    )
    columns = [prompt.label("prompt"), text_.label("text"), GradingItem.completion_id, Completion.group_id]
    return members(grading_id, numbers, columns)


def cells_to_reuse(grading_id: str, numbers: Collection[int]) -> Select[*tuple[Any, ...]]:
    """The members of these groups, where their cells are, and what decided these: a version and the prompt."""
    prompt = [Completion.prompt[name].label(name) for name in ("category", "tags", "criteria")]
    columns = [
        GradingItem.completion_id,
        GradingItem.completion_created_at,
        func.coalesce(Completion.cells_of, Completion.id).label("cells_of"),
        func.coalesce(Completion.cells_created_at, Completion.created_at).label("cells_created_at"),
        Completion.rubric_id,
        Completion.rubric_version,
        *_ASKED_BY,
        *prompt,
    ]
    return members(grading_id, numbers, columns, asked=True)


STORED_CELLS = """
    SELECT completion_id, criterion, status, family, score, confidence, votes, vote_variance, steps
    FROM cells WHERE completion_id = ANY(%s) AND created_at BETWEEN %s AND %s
"""
"""Of these completions, in no order: the arithmetic needs none."""

ADD_REUSED = """
    INSERT INTO completions (id, created_at, project_id, grading_id, fence, attempt, step, purpose, group_id, group_index, idx,
        prompt, text, token_ids, logprobs, finish_reason, member, coverage, reward, plain_reward, unscaled_advantage,
        scale_factor, advantage, parts, weighting, signal, rubric_id, rubric_version, position, source_id, cells_of,
        cells_created_at, reused)
    SELECT n.id, %(created_at)s, %(project_id)s, %(grading_id)s, %(fence)s, 1, 0, 'grading', c.group_id, n.number, n.idx,
        c.prompt, c.text, '{}', '{}', NULL, n.member, n.coverage, n.reward, n.plain_reward, n.unscaled_advantage,
        n.scale_factor, n.advantage, CAST(n.parts AS jsonb), CAST(g.weighting AS jsonb), g.signal, g.rubric_id, g.rubric_version,
        n.position, c.id, coalesce(c.cells_of, c.id), coalesce(c.cells_created_at, c.created_at),
        string_to_array(n.reused, ',')
    FROM unnest(%(id)b::text[], %(number)b::int[], %(idx)b::int[], %(position)b::int[], %(source)b::text[],
                %(source_created_at)b::timestamptz[], %(member)b::bool[], %(coverage)b::float8[], %(reward)b::float8[],
                %(plain_reward)b::float8[], %(unscaled_advantage)b::float8[], %(scale_factor)b::float8[],
                %(advantage)b::float8[], %(parts)b::text[], %(reused)b::text[])
         AS n(id, number, idx, position, source, source_created_at, member, coverage, reward, plain_reward,
              unscaled_advantage, scale_factor, advantage, parts, reused)
    JOIN unnest(%(g_number)b::int[], %(g_weighting)b::text[], %(g_signal)b::text[], %(g_rubric_id)b::text[],
                %(g_rubric_version)b::int[]) AS g(number, weighting, signal, rubric_id, rubric_version)
         ON g.number = n.number
    JOIN completions c ON c.id = n.source AND c.created_at = n.source_created_at
"""
"""Completions aggregated anew: prompt and text are those of the stored ones, cells stay where they are."""


def mark(grading_id: str, numbers: Collection[int], status: str) -> Executable:
    """Groups in a new state; returns those that were not in it yet."""
    return (
        update(GradingGroup)
        .where(GradingGroup.grading_id == grading_id, GradingGroup.number.in_(numbers), GradingGroup.status != status)
        .values(status=status)
        .returning(GradingGroup.number)
    )


def unanswered_keys(grading_id: str) -> Select[str]:
    """The keys of batches that are not done."""
    return select(CellBatch.key).where(CellBatch.grading_id == grading_id, CellBatch.status != "done")


PROGRESS: TextClause = text(
    """
    SELECT count(*) AS done, count(*) FILTER (WHERE r.cell ->> 'status' <> 'ok') AS failed
    FROM cell_batches b JOIN cell_requests r ON r.batch_id = b.id
    WHERE b.grading_id = :grading_id AND r.cell IS NOT NULL
    """
)
"""Cells that have come for groups that are not finished."""
