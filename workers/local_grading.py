"""The engine of queue `grading_local`: claims batches of cells and grades them with models of this machine, one after another.

One thread, because a model uses every core or the whole card anyway; another renews the lease meanwhile. Torch is imported when
the first batch arrives, so that a worker that is never asked stays small.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from service.config import Settings
from service.db.tables import Judge, JudgeRevision
from service.domain.asked import Told
from service.domain.checkpoint import CheckpointFile
from service.domain.criteria import criteria_of
from service.domain.grade import Cell
from service.domain.job_state import JobFailure
from service.domain.judge import JudgeConfig, JudgeLimits
from service.domain.rubric import Criterion
from service.storage import ArtifactStore
from workers.graders.judge.record import Record
from workers.runs.budget import Account
from workers.runs.cell_work import BulkWork
from workers.runs.cells import CellWork, ClaimedBatch
from workers.runs.held import model_folder
from workers.runs.identity import process_identity
from workers.runs.ledger import Ledger, as_rows
from workers.runs.local_known import LocalKnown
from workers.runs.local_purse import LocalPurse
from workers.runs.replies import Kept, keep
from workers.runs.shares import Worker

if TYPE_CHECKING:
    from workers.graders.local.graders import LocalGraders, PinnedJudge
    from workers.policy.loading import ModelFiles

log = logging.getLogger(__name__)


@dataclass(slots=True)
class LocalGradingEngine:
    """Start it once in a process; `wake` it when there may be work; `stop` gives back what it holds."""

    work: CellWork
    settings: Settings
    store: ArtifactStore
    _ledger: Ledger = field(init=False)
    _graders: LocalGraders | None = None
    _held: ClaimedBatch | None = None
    _lost: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _awake: threading.Event = field(default_factory=threading.Event)
    _complained: str = ""

    def __post_init__(self) -> None:
        self._ledger = Ledger(self.work.worker_id)

    def start(self) -> None:
        """Begin."""
        for name, target in (("grading-local", self._main), ("grading-local-lease", self._keep_lease)):
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def wake(self) -> None:
        """There may be a batch."""
        self._awake.set()

    def stop(self) -> None:
        """Give the batch back, for another worker; a model that is at work is not waited for."""
        self._stopping.set()
        self._awake.set()
        for thread in self._threads:
            thread.join(timeout=2)
        try:
            self.work.release()
        except Exception as error:
            log.warning("giving cells back: %s", error)

    def _main(self) -> None:
        while not self._stopping.is_set():
            try:
                while not self._stopping.is_set() and (batches := self.work.claim(1)):
                    self._lost.clear()
                    self._held = batches[0]
                    self._grade(batches[0])
                    self._held = None
                self._complained = ""
            except Exception as error:  # the database is away: the lease lapses, and the batch is claimed again
                self._held = None
                said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                if said != self._complained:
                    log.warning("local grading: %s", said)
                    self._complained = said
            self._awake.wait(self.settings.jobs.poll_s)
            self._awake.clear()

    def _grade(self, batch: ClaimedBatch) -> None:
        """All cells at once: a batch that was begun elsewhere has none, so equal batches are always graded alike."""
        if batch.questions is not None:
            self._answer(batch)
            return
        assert batch.content is not None
        criteria = {criterion.key: criterion for criterion in criteria_of(batch.content, batch.prompt)}
        todo = [(index, criteria[key]) for index, key in batch.todo]
        judges = {judge: self.work.judge(judge, batch.judges[judge]) for judge in batch.local_judges}
        cache = LocalKnown(BulkWork(self.work), batch, judges, self._weights)
        known, todo, keys = cache.part(todo)
        said: list[Record] = []
        try:
            cells = self._cells(batch, todo, judges, said) if todo else []
        except Exception as error:
            if self._lost.is_set() or self._stopping.is_set():
                self.work.leave_budgets()
                return
            # Out of memory, or a model that breaks: the same batch would break again.
            log.exception("batch %s of %s", batch.id, batch.owner_id)
            reason = f"the model failed: {_said(error)}"[:1000]
            cells = [(index, _failed(criterion, reason)) for index, criterion in todo]
        self._store(batch, [*known, *cells], said)
        cache.remember(cells, keys)
        self.work.finish(batch)

    def _answer(self, batch: ClaimedBatch) -> None:
        """The same for plain questions."""
        assert batch.questions is not None
        head, row = self.work.judge(batch.asked, batch.judges[batch.asked])
        places = [index for index, _ in batch.todo]
        try:
            asked = [batch.questions[index] for index in places]
            told = self._models().ask(_pinned(head, row), asked, self._purse(batch, batch.asked))
        except Exception as error:
            if self._lost.is_set() or self._stopping.is_set():
                self.work.leave_budgets()
                return
            log.exception("batch %s of %s", batch.id, batch.owner_id)
            told = [Told(status="infra_error", reason=f"the model failed: {_said(error)}"[:1000]) for _ in places]
        self._store(batch, list(zip(places, told, strict=True)))
        self.work.finish(batch)

    def _store(
        self, batch: ClaimedBatch, answers: Sequence[tuple[int, Cell | Told]], said: Sequence[Record] = ()
    ) -> None:
        counts = self._ledger.take()
        try:
            kept = [Kept(batch.project_id, batch.owner_id, record) for record in said]
            most = self.settings.grading.replies_kb << 10
            self.work.answer(
                batch, answers, as_rows(counts) if counts else None, lambda session: keep(session, kept, most)
            )
        except BaseException:
            self._ledger.put_back(counts)  # the calls were made, whoever answers the batch
            raise

    def _cells(
        self,
        batch: ClaimedBatch,
        todo: list[tuple[int, Criterion]],
        judges: dict[str, tuple[Judge, JudgeRevision]],
        said: list[Record],
    ) -> list[tuple[int, Cell]]:
        from workers.graders.local.graders import LocalBatch

        assert batch.content is not None
        pinned = {judge_id: _pinned(head, row) for judge_id, (head, row) in judges.items()}
        graders, guidelines = self._models(), batch.content.guidelines
        purses = {judge_id: self._purse(batch, judge_id) for judge_id in judges}
        on_record = said.append if batch.kept and self.settings.grading.replies_days else None
        return graders.grade(
            LocalBatch(
                batch.prompt, batch.texts, todo, batch.models, pinned, guidelines, purses, on_record, afresh=batch.fresh
            )
        )

    def _models(self) -> LocalGraders:
        from workers.graders.local.graders import LocalGraders

        if self._graders is None:
            settings = self.settings.grading
            bound = int(settings.local_memory_mb * (1 << 20))
            self._graders = LocalGraders(self._files, bound=bound, device=settings.local_device, check=self._check)
        return self._graders

    def _weights(self, model_id: str) -> str:
        """What a judge's model is in the keys of its cells: its files, and how exactly it computes here."""
        return f"{self._files(model_id).hash}, {self._models().precision}"

    def _purse(self, batch: ClaimedBatch, judge_id: str) -> LocalPurse:
        worker = Worker(self.work.worker_id, process_identity(), self.work.lease_s)
        account = Account(batch.owner_id, judge_id, batch.project_id)
        return LocalPurse(self.work.database, worker, self._ledger, account, batch.budget, self._check)

    def _check(self) -> None:
        """Called at every token of a judge."""
        if self._lost.is_set() or self._stopping.is_set():
            raise InterruptedError("the batch is no longer ours, or this worker stops")

    def _files(self, model_id: str) -> ModelFiles:
        from workers.policy.loading import ModelFiles

        model = self.work.model(model_id)
        if model.status != "ready":
            why = "is still being registered" if model.status == "registering" else f"failed to register: {model.error}"
            raise JobFailure("model_invalid", f"model {model_id} {why}")
        assert model.files is not None
        files = [CheckpointFile.model_validate(file) for file in model.files]
        base = self._files(model.base_model_id) if model.base_model_id else None
        return ModelFiles(model_id, model_folder(model, self.store), files, base)

    def _keep_lease(self) -> None:
        """Renew what we hold while the model works. What is no longer ours, or no longer wanted, is dropped."""
        while not self._stopping.wait(self.work.lease_s / 3):
            held = self._held
            if held is None:
                continue
            try:
                if held.id not in self.work.renew({held.id: held.fence}) and self._held is held:
                    self._lost.set()
            except Exception as error:
                log.warning("renewing cells: %s", error)


def _pinned(head: Judge, row: JudgeRevision) -> PinnedJudge:
    from workers.graders.local.graders import PinnedJudge

    config, limits = JudgeConfig.model_validate(row.config), JudgeLimits.model_validate(head.limits)
    return PinnedJudge(head.id, row.revision, config, limits.concurrency)


def _said(error: BaseException) -> str:
    """The first cause of what the tasks of a batch ended with."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


def _failed(criterion: Criterion, reason: str) -> Cell:
    return Cell(
        criterion=criterion.key,
        status="infra_error",
        reason=reason,
        grader=criterion.grader.type,
        audit=criterion.audit,
    )
