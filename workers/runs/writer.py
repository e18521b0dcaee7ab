"""The child's records, written off the training thread, in order, several in one transaction."""

from __future__ import annotations

import contextlib
import math
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from service.domain.grade import Cell
from service.domain.ids import new_id
from service.domain.scoring import ScoredGroup
from workers.runs.held import HeldJob

if TYPE_CHECKING:  # the grading worker writes rows too, and lives without torch
    from workers.types import CompletionGroup

LIMIT = 256
"""Records that may wait; beyond that the training thread waits for the database."""


class RecordWriter:
    """A `Recorder`: what it is given is written soon, and certainly before `flush` returns.

    `rubrics`: the pinned versions by the names that groups have for them. `on_step` hears of every finished step at once. An
    error of the writing thread is raised at the next call.
    """

    def __init__(
        self, held: HeldJob, rubrics: Mapping[str, dict[str, Any]], on_step: Callable[[int], None] = lambda step: None
    ) -> None:
        self._held = held
        self._on_step = on_step
        self._rubrics = rubrics
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue(LIMIT)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Metric values of a step; a value that is not finite is not a metric."""
        rows = [{"name": name, "step": step, "value": value} for name, value in values.items() if math.isfinite(value)]
        self._put({"metrics": rows})

    def progress(self, step: int) -> None:
        """So many optimizer steps are finished."""
        self._on_step(step)
        self._put({"step": step})

    def completions(self, step: int, purpose: str, groups: Sequence[CompletionGroup]) -> None:
        """Graded and scored groups, with every number of their arithmetic."""
        completions: list[dict[str, Any]] = []
        cells: list[dict[str, Any]] = []
        created_at = self._held.moment()  # the partition key: a completion and its cells lie in the same month
        for position, group in enumerate(groups):
            rubric = self._rubrics[group.rubric]
            for row in completion_rows(group, position, created_at):
                completions.append(
                    {
                        **row,
                        "step": step,
                        "purpose": purpose,
                        "rubric_id": rubric["id"],
                        "rubric_version": rubric["version"],
                        **_NOBODYS,
                    }
                )
                cells.extend(_cell_rows(group, row, created_at))
        self._put({"completions": completions, "cells": cells})

    def revisions(
        self,
        step: int,
        graded: Sequence[tuple[CompletionGroup, Sequence[dict[str, Any]]]],
        results: Sequence[dict[str, Any]],
    ) -> None:
        """What became of revisions; and originals and revisions as completions, each with what it is (`purpose`, and of whom)."""
        completions: list[dict[str, Any]] = []
        cells: list[dict[str, Any]] = []
        created_at = self._held.moment()
        for position, (group, sides) in enumerate(graded):
            rubric = self._rubrics[group.rubric]
            version = {"rubric_id": rubric["id"], "rubric_version": rubric["version"]}
            for row, side in zip(completion_rows(group, position, created_at), sides, strict=True):
                completions.append({**row, "step": step, **version, **_NOBODYS, **side})
                cells.extend(_cell_rows(group, row, created_at))
        rows = [{**row, "step": step} for row in results]
        self._put({"completions": completions, "cells": cells, "results": rows})

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Something worth telling."""
        self._put({"event": (kind, data)})

    def flush(self) -> None:
        """Until everything that was given is written."""
        self._raise()
        self._queue.join()
        self._raise()

    def close(self) -> None:
        """Write what is left and end the thread; errors have been raised by `flush`."""
        self._queue.put(None)
        self._thread.join(timeout=30)

    def _put(self, record: dict[str, Any]) -> None:
        self._raise()
        self._queue.put(record)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while True:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < LIMIT:
                    batch.append(self._queue.get_nowait())
            try:
                if self._error is None:
                    self._write([record for record in batch if record is not None])
            except BaseException as error:
                self._error = error
            finally:
                for _ in batch:
                    self._queue.task_done()
            if batch[-1] is None:
                return

    def _write(self, records: list[dict[str, Any]]) -> None:
        plain = [record for record in records if "event" not in record]
        if plain:
            steps = [record["step"] for record in plain if "step" in record]
            self._held.records(
                step=steps[-1] if steps else None,
                metrics=[row for record in plain for row in record.get("metrics", ())],
                completions=[row for record in plain for row in record.get("completions", ())],
                cells=[row for record in plain for row in record.get("cells", ())],
                results=[row for record in plain for row in record.get("results", ())],
            )
        for record in records:
            if "event" in record:
                self._held.event(*record["event"])


_NOBODYS = {"source_id": None, "revision_of": None}
"""Of a completion that is its own: sampled, neither graded afresh nor a revision."""


def _cell_rows(group: CompletionGroup, row: dict[str, Any], created_at: datetime) -> list[dict[str, Any]]:
    """A completion's cells; the group learns under which ids what judges said can be found."""
    found = [cell_row(cell, row["id"], created_at) for cell in group.cells[row["index"]].values()]
    group.critiques.append({cell["criterion"]: cell["critique_id"] for cell in found if cell["critique_id"]})
    return found


def completion_rows(group: CompletionGroup, position: int, created_at: datetime) -> list[dict[str, Any]]:
    """The rows of one group's completions; the group learns their ids."""
    assert group.scored is not None
    group.ids = group.ids or [new_id("completion") for _ in group.completions]
    group_id = new_id("group")
    return [
        {
            "id": group.ids[index],
            "created_at": created_at,
            "group_id": group_id,
            "group_index": position,
            "index": index,
            "prompt": group.prompt.view,
            "text": completion.text,
            "token_ids": completion.tokens,
            "logprobs": completion.logprobs,
            "finish_reason": completion.finish_reason,
            **numbers,
        }
        for index, (completion, numbers) in enumerate(zip(group.completions, score_columns(group.scored), strict=True))
    ]


def score_columns(scored: ScoredGroup) -> list[dict[str, Any]]:
    """What the arithmetic says of each completion of a group, by column."""
    weighting = {
        key: {
            "weight": w.weight,
            "mean_score": w.mean_score,
            "mean_confidence": w.mean_confidence,
            "effective_weight": w.effective_weight,
            "share": w.share,
            "source": w.source,
            **({"noise": w.noise} if w.noise is not None else {}),
        }
        for key, w in scored.weighting.items()
    }
    return [
        {
            "member": completion.member,
            "coverage": completion.coverage,
            "reward": completion.reward,
            "plain_reward": completion.plain_reward,
            "unscaled_advantage": completion.unscaled_advantage,
            "scale_factor": completion.scale_factor,
            "advantage": completion.advantage,
            "parts": completion.parts,
            "imputed": completion.imputed,
            "weighting": weighting,
            "signal": scored.signal,
        }
        for completion in scored.completions
    ]


def cell_row(cell: Cell, completion_id: str, created_at: datetime) -> dict[str, Any]:
    """The row of one cell; what a judge said can be found under an id of its own."""
    return {
        "completion_id": completion_id,
        "criterion": cell.criterion,
        "created_at": created_at,
        "critique_id": new_id("critique") if cell.reasoning else None,
        "status": cell.status,
        "family": cell.family,
        "reason": cell.reason,
        "score": cell.score,
        "confidence": cell.confidence,
        "confidence_source": cell.confidence_source,
        "stated_confidence": cell.stated_confidence,
        "calibration_id": cell.calibration,
        "calibration_version": cell.calibration_version,
        "reasoning": cell.reasoning,
        "votes": cell.votes,
        "vote_variance": cell.vote_variance,
        "grader": cell.grader,
        "judge_id": cell.judge,
        "judge_revision": cell.revision,
        "fingerprint": cell.fingerprint,
        "cached": cell.cached,
        "attempts": cell.attempts,
        "latency_ms": cell.latency_ms,
        "tokens_in": cell.tokens_in,
        "tokens_out": cell.tokens_out,
        "tokens_estimated": cell.tokens_estimated,
        "calls": cell.calls,
        "cost_usd": cell.cost_usd,
        "audit": cell.audit,
        "reply_format": cell.reply_format,
        "unasked": cell.unasked,
        "replies_id": cell.replies,
        "steps": [step.model_dump() for step in cell.steps] if cell.steps is not None else None,
    }
