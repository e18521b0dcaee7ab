"""The grading worker's engine: claims batches, asks judges with many questions in flight, stores answers as they come.

One event loop in one thread. The database work is synchronous and runs beside it. What a judge does is a cell; what our own
code or the database does wrong ends the claim, and the batch is taken up again by whoever claims it next, with the cells that
it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from dataclasses import dataclass, field
from typing import Any

import httpx

from service.config import Settings
from service.domain.criteria import criteria_of
from service.domain.grade import Cell
from service.domain.grader import JudgeGrader
from service.domain.judge import JudgeConfig, JudgeLimits
from service.domain.rubric import Criterion, RubricContent
from service.security import Vault
from workers.graders.judge.abilities import Abilities
from workers.graders.judge.cell import grade_completion
from workers.graders.judge.client import Endpoint
from workers.graders.judge.connections import judge_client
from workers.runs.cells import CellWork, ClaimedBatch
from workers.runs.identity import process_identity
from workers.runs.shares import Address, Shares, Worker

log = logging.getLogger(__name__)

GATHER_S = 0.03
"""Answers are stored together when they arrive within this time."""


@dataclass(slots=True)
class _Judge:
    """A judge's revision as this worker asks it; its gate outlives revisions, so that concurrency holds across them."""

    endpoint: Endpoint
    revision: int


@dataclass(slots=True)
class GradingEngine:
    """Start it once in a process; `wake` it when there may be work; `stop` gives everything back."""

    work: CellWork
    settings: Settings
    vault: Vault
    _thread: threading.Thread | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _awake: asyncio.Event | None = None
    _stopping: bool = False
    _client: httpx.AsyncClient | None = None
    _shares: Shares | None = None
    _abilities: dict[tuple[str, str], Abilities] = field(default_factory=dict)
    _tasks: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    _held: dict[str, ClaimedBatch] = field(default_factory=dict)
    _in_flight: int = 0

    def start(self) -> None:
        """Run the loop in a thread of its own."""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="grading", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There may be a batch."""
        if self._loop is not None and self._awake is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._awake.set)

    def stop(self) -> None:
        """Stop asking, and give the batches back."""
        self._stopping = True
        self.wake()
        if self._thread is not None:
            self._thread.join(timeout=20)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._awake = asyncio.Event()
        limit = self.settings.grading.concurrency
        self._shares = Shares(self.work.database, Worker(self.work.worker_id, process_identity(), self.work.lease_s))
        async with judge_client(self.settings.egress.allow) as client:
            self._client = client
            keepers = [asyncio.create_task(self._keep_leases()), asyncio.create_task(self._shares.run())]
            while not self._stopping:
                self._awake.clear()
                try:
                    await self._claim(limit)
                except Exception as error:  # the database is away: ask again
                    log.warning("claiming cells: %s", error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._awake.wait(), self.settings.jobs.poll_s)
            for task in [*keepers, *self._tasks.values()]:
                task.cancel()
            await asyncio.gather(*keepers, *self._tasks.values(), return_exceptions=True)
        try:
            await asyncio.to_thread(self.work.release)
            await self._shares.leave()
        except Exception as error:
            log.warning("giving cells back: %s", error)

    async def _claim(self, limit: int) -> None:
        """Take batches while fewer cells than twice the limit are under way, so that the judges are never idle."""
        while self._in_flight < 2 * limit and not self._stopping:
            batches = await asyncio.to_thread(self.work.claim, 8)
            for batch in batches:
                self._held[batch.id] = batch
                self._in_flight += len(batch.todo)
                task = asyncio.create_task(self._grade(batch))
                self._tasks[batch.id] = task
            if len(batches) < 8:
                return

    async def _grade(self, batch: ClaimedBatch) -> None:
        """All cells of a batch, stored as they come."""
        try:
            await self._grade_cells(batch)
            await asyncio.to_thread(self.work.finish, batch)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("batch %s of %s", batch.id, batch.owner_id)
        finally:
            self._held.pop(batch.id, None)
            self._tasks.pop(batch.id, None)
            self._in_flight -= len(batch.todo)
            self.wake()

    async def _grade_cells(self, batch: ClaimedBatch) -> None:
        content = RubricContent.model_validate(batch.rubric["content"])
        criteria = {criterion.key: criterion for criterion in criteria_of(content, batch.prompt)}
        judges = await self._judges(batch, [criteria[key] for _, key in batch.todo])
        answers: asyncio.Queue[tuple[int, Cell]] = asyncio.Queue()

        async def some(index: int, judge_id: str, asked: list[Criterion]) -> None:
            judge = judges[judge_id]
            if isinstance(judge, str):
                for c in asked:
                    cell = Cell(criterion=c.key, status="infra_error", reason=judge, grader="judge", audit=c.audit)
                    answers.put_nowait((index, cell))
                return
            await grade_completion(
                judge.endpoint,
                asked,
                judge_id=judge_id,
                revision=judge.revision,
                guidelines=content.guidelines,
                prompt=batch.prompt,
                text=batch.texts[index],
                on_cell=lambda cell: answers.put_nowait((index, cell)),
            )

        asked: dict[tuple[int, str], list[Criterion]] = {}
        for index, key in batch.todo:
            grader = criteria[key].grader
            assert isinstance(grader, JudgeGrader)
            asked.setdefault((index, grader.judge), []).append(criteria[key])
        async with asyncio.TaskGroup() as group:
            storing = group.create_task(self._store(batch, answers, len(batch.todo)))
            for (index, judge_id), together in asked.items():
                group.create_task(some(index, judge_id, together))
            del storing

    async def _store(self, batch: ClaimedBatch, answers: asyncio.Queue[tuple[int, Cell]], count: int) -> None:
        while count:
            part = [await answers.get()]
            await asyncio.sleep(GATHER_S)
            while not answers.empty():
                part.append(answers.get_nowait())
            await asyncio.to_thread(self.work.answer, batch, part)
            count -= len(part)

    async def _judges(self, batch: ClaimedBatch, criteria: list[Criterion]) -> dict[str, _Judge | str]:
        """Each judge of the batch, or the reason why it cannot be asked."""
        wanted = sorted({c.grader.judge for c in criteria if isinstance(c.grader, JudgeGrader)})
        found: dict[str, _Judge | str] = {}
        for judge_id in wanted:
            revision = batch.judges[judge_id]
            head, row = await asyncio.to_thread(self.work.judge, judge_id, revision)
            limits = JudgeLimits.model_validate(head.limits)
            try:
                api_key = self.vault.open(head.secret, judge_id) if head.secret is not None else None
            except ValueError as error:
                found[judge_id] = str(error)
                continue
            assert self._client is not None
            assert self._shares is not None
            config = JudgeConfig.model_validate(row.config)
            if config.endpoint is None:
                found[judge_id] = f"judge {judge_id} is a registered model, and this worker asks endpoints"
                continue
            key = self.vault.hash_key(api_key) if api_key else ""
            gate = self._shares.gate(Address(config.endpoint.base_url, config.endpoint.model, key))
            able = self._abilities.setdefault((config.endpoint.base_url, config.endpoint.model), Abilities())
            found[judge_id] = _Judge(Endpoint(self._client, config, limits, api_key, gate, able), revision)
        return found

    async def _keep_leases(self) -> None:
        """Renew what we hold; what is no longer ours, or no longer wanted, is dropped at once."""
        while True:
            await asyncio.sleep(self.work.lease_s / 3)
            held = {batch.id: batch.fence for batch in self._held.values()}
            if not held:
                continue
            try:
                kept = await asyncio.to_thread(self.work.renew, held)
            except Exception as error:
                log.warning("renewing cells: %s", error)
                continue
            for batch_id in held.keys() - kept:
                task: Any = self._tasks.get(batch_id)
                if task is not None:
                    task.cancel()
