"""Each worker's poll thread, as a Celery bootstep: it claims, reaps, retries and sends the outbox. Messages only wake it.

Celery may lose messages, deliver them twice, or stop consuming after a broken connection; none of that stops this thread.
"""

from __future__ import annotations

import logging
import random
import threading
from typing import Any

from celery import bootsteps
from celery.signals import worker_shutting_down

from service.config import LOCAL_WANTED
from service.db.queries.cells import some_wait
from service.domain.places import GRADING_LOCAL
from workers.context import Context, context

log = logging.getLogger(__name__)


class PollThread:
    """The loop; `wake` ends its present pause."""

    def __init__(self, context: Context, queues: frozenset[str]) -> None:
        self.context = context
        self.queues = queues
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="poll", daemon=True)
        self._sender = threading.Thread(target=self._send, name="outbox", daemon=True)
        self._complained: dict[Any, str] = {}

    def start(self) -> None:
        """Begin polling."""
        self._thread.start()
        self._sender.start()

    def wake(self) -> None:
        """There may be work."""
        self._wake.set()

    def stop(self) -> None:
        """Let the running job checkpoint and go, then end. The thread outlives the child that it has started."""
        if "training" in self.queues:
            self.context.runner.draining.set()
            self.context.runner.idle.wait()
            self._stopping.set()
            self._wake.set()
            self._thread.join(timeout=10)
        if "grading" in self.queues:
            self.context.gradings.stop()
            self.context.grading.stop()
        if GRADING_LOCAL in self.queues:
            self.context.local_grading.stop()
        self._stopping.set()
        self._wake.set()
        self._thread.join(timeout=10)

    def _run(self) -> None:
        if "grading" in self.queues:
            self.context.grading.start()
            self.context.gradings.start()
        if GRADING_LOCAL in self.queues:
            self.context.local_grading.start()
        while not self._stopping.is_set():
            self._attempt(self.context.claims.look_after)
            self._attempt(self._want_local)
            if "transfer" in self.queues:
                self._attempt(self.context.registrar.register_next)
            if "training" in self.queues and not self.context.runner.draining.is_set():
                self._attempt(self._train)
            self._wake.wait(self.context.settings.jobs.poll_s * random.uniform(0.8, 1.2))  # noqa: S311
            self._wake.clear()
        if "training" in self.queues:
            self.context.nursery.close()

    def _send(self) -> None:
        """The outbox, in a thread of its own: a broker that hangs must not keep this worker from claiming and reaping."""
        while not self._stopping.is_set():
            self._attempt(self.context.outbox.flush)
            self._stopping.wait(self.context.settings.jobs.poll_s)

    def _want_local(self) -> None:
        """Under `grape up`: have the worker of local models started, once cells wait for it."""
        run_dir = self.context.settings.jobs.run_dir
        if run_dir is None or GRADING_LOCAL in self.queues or (run_dir / LOCAL_WANTED).exists():
            return
        with self.context.database.transaction() as session:
            if session.scalar(some_wait(GRADING_LOCAL)):
                (run_dir / LOCAL_WANTED).touch()

    def _train(self) -> None:
        # Only this thread starts children (see workers.nursery), the next one while a job still runs, so that the job after it
        # need not wait for imports. A job runs in a thread of its own, so that leases of other jobs are still looked after.
        self.context.nursery.tend()
        if self.context.runner.idle.is_set():
            threading.Thread(target=self._run_jobs, name="run", daemon=True).start()

    def _run_jobs(self) -> None:
        try:
            if self.context.runner.run_next():
                self.wake()
        except Exception:
            log.exception("running a job")

    def _attempt(self, work: Any) -> None:
        """Run one duty; what fails is said once and tried again next time."""
        try:
            work()
            self._complained.pop(work, None)
        except Exception as error:
            said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            if said != self._complained.get(work):
                log.warning("poll: %s", said)
                self._complained[work] = said


class PollStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Starts the poll thread with the worker and stops it in order."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self.thread: PollThread | None = None

    def start(self, worker: Any) -> None:
        """The queues that the worker consumes say what it is for."""
        queues = frozenset(worker.app.amqp.queues.consume_from)
        self.thread = PollThread(context(), queues)
        context().poll = self.thread
        self.thread.start()

    def stop(self, worker: Any) -> None:
        """After the last task, before the process ends."""
        if self.thread is not None:
            self.thread.stop()

    def terminate(self, worker: Any) -> None:
        """The same for a cold shutdown."""
        self.stop(worker)


@worker_shutting_down.connect(weak=False)  # type: ignore[untyped-decorator]
def _drain(**_: Any) -> None:
    """TERM: let the running job checkpoint and give it back; it is queued again at once, and no attempt is counted."""
    context().runner.draining.set()
