"""The grading worker's engine: claims batches, asks judges with many questions in flight, runs code, stores answers as they come.

One event loop in one thread. The database work is synchronous and runs beside it, many batches in one transaction. What a judge
does is a cell; what our own code or the database does wrong ends the claim, and the batch is taken up again by whoever claims it
next, with the cells that it has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from dataclasses import dataclass, field

import httpx
import uvloop

from service.config import Settings
from service.domain.asked import Told
from service.domain.criteria import criteria_of
from service.domain.grade import Cell
from service.domain.grader import JudgeGrader
from service.domain.judge import Capabilities
from service.domain.rubric import Criterion
from service.security import Vault
from workers.code_cells import CodeAsk, CodeCells, code_asks
from workers.graders.judge.abilities import Abilities, ReplyFormat
from workers.graders.judge.cell import grade_completion
from workers.graders.judge.client import Endpoint
from workers.graders.judge.connections import judge_client
from workers.graders.judge.plain import told, with_system_prompt
from workers.graders.judge.record import Record
from workers.graders.judge.terms import Room
from workers.runs.answers import Answers
from workers.runs.budget import Account
from workers.runs.cell_work import Answer, BulkWork, PinnedJudge, Work
from workers.runs.cells import CellWork
from workers.runs.identity import process_identity
from workers.runs.known import Ask, Known
from workers.runs.learned import Learned
from workers.runs.ledger import Ledger
from workers.runs.plain_asks import PlainAsk, plain_asks
from workers.runs.purses import Purse, Purses
from workers.runs.shares import Address, Shares, Worker

log = logging.getLogger(__name__)

MOST_BATCHES = 256
"""Batches of one claim."""


@dataclass(slots=True)
class _Held:
    """A batch under way; `open` are its cells that do not stand yet."""

    work: Work
    open: int
    task: asyncio.Task[None] | None = None


@dataclass(slots=True)
class GradingEngine:
    """Start it once in a process; `wake` it when there may be work; `stop` gives everything back."""

    work: CellWork
    settings: Settings
    vault: Vault
    _bulk: BulkWork = field(init=False)
    _thread: threading.Thread | None = None
    _loop: asyncio.AbstractEventLoop | None = None
    _awake: asyncio.Event | None = None
    _stopping: bool = False
    _client: httpx.AsyncClient | None = None
    _shares: Shares | None = None
    _abilities: dict[tuple[str, str, Capabilities], Abilities] = field(default_factory=dict)
    _learned: Learned = field(default_factory=Learned)
    _purses: Purses | None = None
    _answers: Answers | None = None
    _code: CodeCells | None = None
    _held: dict[str, _Held] = field(default_factory=dict)
    _per_batch: float = 8.0

    def __post_init__(self) -> None:
        self._bulk = BulkWork(self.work, self.settings.grading.replies_kb << 10)

    def start(self) -> None:
        """Run the loop in a thread of its own."""

        def main() -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(self._main())

        self._thread = threading.Thread(target=main, name="grading", daemon=True)
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
        worker = Worker(self.work.worker_id, process_identity(), self.work.lease_s)
        self._shares = Shares(self.work.database, worker, Room(self.settings.grading.concurrency))
        self._purses = Purses(self.work.database, worker, Ledger(self.work.worker_id))
        self._answers = Answers(self._bulk, self._purses.ledger, self._learned, self._stored)
        self._code = CodeCells(self._bulk, self._answers.put, self.settings.grading.sandboxes)
        async with judge_client(self.settings.egress.allow) as client:
            self._client = client
            writer = asyncio.create_task(self._answers.run())
            keepers = [
                asyncio.create_task(work) for work in (self._keep_leases(), self._shares.run(), self._purses.run())
            ]
            while not self._stopping:
                self._awake.clear()
                try:
                    await self._claim(2 * self.settings.grading.concurrency)
                except Exception as error:  # the database is away: ask again
                    log.warning("claiming cells: %s", error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._awake.wait(), self.settings.jobs.poll_s)
            tasks = [*keepers, *(held.task for held in self._held.values() if held.task is not None)]
            self._code.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._leave(writer)

    async def _leave(self, writer: asyncio.Task[None]) -> None:
        """Store what was answered, and give the rest back."""
        assert self._answers is not None
        assert self._shares is not None
        assert self._purses is not None
        self._answers.close()
        try:
            await asyncio.wait_for(writer, 5)
            await asyncio.to_thread(self.work.release)
            await self._shares.leave()
            await self._purses.leave()
        except Exception as error:
            log.warning("giving cells back: %s", error)

    @property
    def _open(self) -> int:
        return sum(held.open for held in self._held.values())

    async def _claim(self, most: int) -> None:
        """Take batches while fewer than `most` cells are open, so that the judges are never idle."""
        while (room := most - self._open) > 0 and not self._stopping:
            count = min(MOST_BATCHES, math.ceil(room / self._per_batch))
            works = await asyncio.to_thread(self._bulk.claim, count)
            if works:
                self._per_batch = max(1.0, sum(len(work.todo) for work in works) / len(works))
                await self._begin(works)
            if len(works) < count:
                return

    async def _begin(self, works: list[Work]) -> None:
        """Answer what is known, and start to ask for the rest, and to run it."""
        assert self._answers is not None
        assert self._code is not None
        asks: list[Ask] = []
        codes: list[CodeAsk] = []
        plain: list[PlainAsk] = []
        for work in works:
            self._held[work.id] = _Held(work, len(work.todo))
            self._answers.expect(work)
            if work.questions is not None:
                plain += plain_asks(work)
                continue
            asks += _asks(work)
            codes += code_asks(work)
        known = Known(self._bulk, self._formats)
        try:
            answers, left = await known.part(asks)
            known_code, left_code = await self._code.part(codes) if codes else ([], [])
        except Exception:  # claimed again, by whoever, when the leases have ended
            for work in works:
                self._drop(work)
            raise
        for answer in [*answers, *known_code]:
            self._answers.put(answer)
        rest: dict[str, list[Ask | CodeAsk | PlainAsk]] = {work.id: [] for work in works}
        for ask in [*left, *left_code, *plain]:
            rest[ask.work.id].append(ask)
        for work in works:
            held = self._held.get(work.id)
            if held is not None and held.work is work and rest[work.id]:
                held.task = asyncio.create_task(self._grade(work, rest[work.id], known))

    async def _grade(self, work: Work, asks: list[Ask | CodeAsk | PlainAsk], known: Known) -> None:
        """Ask for what is left of a batch; answers go to the writer as they come."""
        assert self._code is not None
        try:
            async with asyncio.TaskGroup() as group:
                for ask in asks:
                    group.create_task(self._answer(ask, known))
        except asyncio.CancelledError:
            self._drop(work)
            raise
        except Exception:
            log.exception("batch %s of %s", work.id, work.owner_id)
            self._drop(work)

    async def _answer(self, ask: Ask | CodeAsk | PlainAsk, known: Known) -> None:
        assert self._code is not None
        if isinstance(ask, CodeAsk):
            await self._code.run(ask)
        elif isinstance(ask, PlainAsk):
            assert self._answers is not None
            self._answers.put(Answer(ask.work, ask.index, await self._ask_plainly(ask)))
        else:
            await self._ask(ask, known)

    async def _ask_plainly(self, ask: PlainAsk) -> Told:
        assert self._purses is not None
        account = Account(ask.work.owner_id, ask.judge.id, ask.work.project_id)
        endpoint = self._endpoint(ask.judge, self._purses.purse(account, ask.judge.limits, ask.work.budget))
        if isinstance(endpoint, str):
            return Told(status="infra_error", reason=endpoint)
        messages = with_system_prompt(ask.messages, ask.judge.config.prompt.system)
        return told(await endpoint.ask(messages), ask.judge.limits.price)

    async def _ask(self, ask: Ask, known: Known) -> None:
        assert self._answers is not None
        assert self._purses is not None
        put, price = self._answers.put, ask.judge.limits.price
        said: list[Record] = []

        def on_cell(cell: Cell) -> None:
            if price is not None:
                cell = cell.model_copy(update={"cost_usd": price.of(cell.tokens_in, cell.tokens_out)})
            self._learn(ask)
            record = said.pop() if said else None  # it goes with the first cell of its question
            put(Answer(ask.work, ask.index, cell, known.key_of(ask, cell), record))

        account = Account(ask.work.owner_id, ask.judge.id, ask.work.project_id)
        endpoint = self._endpoint(ask.judge, self._purses.purse(account, ask.judge.limits, ask.work.budget))
        if isinstance(endpoint, str):
            for c in ask.criteria:
                cell = Cell(criterion=c.key, status="infra_error", reason=endpoint, grader="judge", audit=c.audit)
                put(Answer(ask.work, ask.index, cell))
            return
        await grade_completion(
            endpoint,
            ask.criteria,
            judge_id=ask.judge.id,
            revision=ask.judge.revision,
            guidelines=ask.work.content.guidelines,
            prompt=ask.work.prompt,
            text=ask.work.texts[ask.index],
            on_cell=on_cell,
            on_record=said.append if ask.work.kept and self.settings.grading.replies_days else None,
        )

    def _endpoint(self, judge: PinnedJudge, purse: Purse) -> Endpoint | str:
        """Where this judge is asked, or the reason why it cannot be; its gate outlives it, so that limits hold across batches."""
        assert self._client is not None
        assert self._shares is not None
        if judge.config.endpoint is None:
            return f"judge {judge.id} is a registered model, and this worker asks endpoints"
        try:
            api_key = self.vault.open(judge.secret, judge.id) if judge.secret is not None else None
        except ValueError as error:
            return str(error)
        key = self.vault.hash_key(api_key) if api_key else ""
        gate = self._shares.gate(Address(judge.config.endpoint.base_url, judge.config.endpoint.model, key))
        return Endpoint(self._client, judge.config, judge.limits, api_key, gate, self._abilities_of(judge), purse)

    def _abilities_of(self, judge: PinnedJudge) -> Abilities:
        """What is known of the endpoint's model, whoever asked it; what people say of it is not tried."""
        assert judge.config.endpoint is not None
        said = judge.limits.capabilities
        place = (judge.config.endpoint.base_url, judge.config.endpoint.model, said)
        if place not in self._abilities:
            self._abilities[place] = Abilities(json_schema=said.json_schema, logprobs=said.logprobs)
        return self._abilities[place]

    def _learn(self, ask: Ask) -> None:
        """What asking has shown goes into the table beside the answer."""
        endpoint, said = ask.judge.config.endpoint, ask.judge.limits.capabilities
        if endpoint is not None:
            place = (ask.work.project_id, endpoint.base_url, endpoint.model)
            known = self._abilities_of(ask.judge).known
            self._learned.saw(place, known, said.model_dump(), time.monotonic())

    def _formats(self, judge: PinnedJudge) -> tuple[ReplyFormat, ...]:
        """In which forms replies to this judge's questions may have come, the likeliest first."""
        wanted = judge.config.structured_output
        if wanted == "off" or judge.config.endpoint is None:
            return ("text",)
        if wanted == "on":
            return ("json_schema",)
        return ("text",) if self._abilities_of(judge).json_schema is False else ("json_schema", "text")

    def _stored(self, work: Work, count: int) -> None:
        """So many cells of a batch stand now."""
        held = self._held.get(work.id)
        if held is not None and held.work is work:
            held.open -= count
            if held.open <= 0:
                del self._held[work.id]
        if self._awake is not None:
            self._awake.set()

    def _drop(self, work: Work) -> None:
        """A batch is no longer ours, or we cannot go on with it."""
        assert self._answers is not None
        self._answers.forget(work)
        held = self._held.get(work.id)
        if held is not None and held.work is work:
            del self._held[work.id]

    async def _keep_leases(self) -> None:
        """Renew what we hold; what is no longer ours, or no longer wanted, is dropped at once."""
        while True:
            await asyncio.sleep(self.work.lease_s / 3)
            fences = {held.work.id: held.work.fence for held in self._held.values()}
            if not fences:
                continue
            try:
                kept = await asyncio.to_thread(self.work.renew, fences)
            except Exception as error:
                log.warning("renewing cells: %s", error)
                continue
            for batch_id in fences.keys() - kept:
                held = self._held.get(batch_id)
                if held is not None and held.work.fence == fences[batch_id]:
                    if held.task is not None:
                        held.task.cancel()
                    self._drop(held.work)


def _asks(work: Work) -> list[Ask]:
    """What judges are asked for a batch: for each completion and judge the criteria that have no cell."""
    criteria = {criterion.key: criterion for criterion in criteria_of(work.content, work.prompt)}
    together: dict[tuple[int, str], list[Criterion]] = {}
    for index, key in work.todo:
        grader = criteria[key].grader
        if not isinstance(grader, JudgeGrader):
            continue
        together.setdefault((index, grader.judge), []).append(criteria[key])
    return [Ask(work, index, work.judges[judge], asked) for (index, judge), asked in together.items()]
