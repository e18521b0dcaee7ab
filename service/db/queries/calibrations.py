"""Calibrations of judges' confidence."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Select, func, select, tuple_
from sqlalchemy.dialects.postgresql import distinct_on

from service.db.tables import Calibration, Judge


def judge(project_id: str, judge_id: str) -> Select[Judge]:
    """The judge that is calibrated."""
    return select(Judge).where(Judge.project_id == project_id, Judge.id == judge_id)


def locked(project_id: str, judge_id: str) -> Select[Judge]:
    """The same, so that versions are numbered one after the other."""
    return judge(project_id, judge_id).with_for_update()


def of_judge(project_id: str, judge_id: str) -> Select[Calibration]:
    """All of a judge, of whatever revision."""
    return select(Calibration).where(Calibration.project_id == project_id, Calibration.judge_id == judge_id)


def latest(judges: Mapping[str, int]) -> Select[Calibration]:
    """The newest of each of these judges' revisions."""
    return (
        select(Calibration)
        .ext(distinct_on(Calibration.judge_id))
        .where(tuple_(Calibration.judge_id, Calibration.revision).in_(list(judges.items())))
        .order_by(Calibration.judge_id, Calibration.version.desc())
    )


def last_version(judge_id: str) -> Select[int]:
    """The number of a judge's newest calibration, 0 without one."""
    return select(func.coalesce(func.max(Calibration.version), 0)).where(Calibration.judge_id == judge_id)
