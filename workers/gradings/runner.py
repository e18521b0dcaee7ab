"""The gradings of a grading worker: claimed, each seen through in a thread that mostly waits, leases kept, given back.

A thread of its own, not the poll thread: that one may be fetching a model for minutes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from service.config import Settings
from service.queue import Bell
from workers.drafting.run import Drafting
from workers.gradings.grade import Grader
from workers.gradings.results import Answer, StoredResults
from workers.gradings.reuse import Regrader
from workers.gradings.rubrics import Rubrics
from workers.revisions.labelling import Labelling
from workers.revisions.run import Revising
from workers.runs.cells import channel
from workers.runs.grading_claims import GradingClaims
from workers.runs.gradings import GradingFailure, HeldGrading
from workers.runs.held import StaleFence

log = logging.getLogger(__name__)

SLOTS = {"try": 8, "reuse": 2, "grade": 8, "revise": 4}
"""How many gradings of each lane a worker holds at once."""
WINDOWS = 8
"""Open judged cells of a grading, in multiples of what the worker has in flight."""
FORGET_S = 60.0


class Stopped(Exception):
    """The worker is stopping, or the grading is no longer ours: leave it as it stands."""


@dataclass(slots=True)
class _Running:
    """A held grading and the thread that works on it."""

    held: HeldGrading
    lane: str
    thread: threading.Thread
    lost: threading.Event


@dataclass(slots=True)
class GradingRunner:
    """Start it once in a process; `wake` it when there may be a grading; `stop` gives everything back."""

    claims: GradingClaims
    settings: Settings
    bell: Bell
    asked: Callable[[], None]
    _running: dict[str, _Running] = field(default_factory=dict)
    _stopping: threading.Event = field(default_factory=threading.Event)
    _awake: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _complained: str = ""

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._main, name="gradings", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There may be a grading."""
        self._awake.set()

    def stop(self) -> None:
        """Leave every grading where it stands, for another worker."""
        self._stopping.set()
        self._awake.set()
        if self._thread is not None:
            self._thread.join(timeout=20)

    def _main(self) -> None:
        renewed_at = forgot_at = 0.0
        while not self._stopping.is_set():
            try:
                if time.monotonic() - renewed_at > self.claims.lease_s / 3:
                    self._renew()
                    renewed_at = time.monotonic()
                self._claim()
                if time.monotonic() - forgot_at > FORGET_S:
                    self.claims.forget_tries()
                    forgot_at = time.monotonic()
                self._complained = ""
            except Exception as error:  # the database is away: ask again
                said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                if said != self._complained:
                    log.warning("gradings: %s", said)
                    self._complained = said
            self._awake.wait(min(self.settings.jobs.poll_s, self.claims.lease_s / 3))
            self._awake.clear()
        for running in list(self._running.values()):
            running.thread.join(timeout=10)
        try:
            self.claims.release()
        except Exception as error:
            log.warning("giving gradings back: %s", error)

    def _claim(self) -> None:
        for lane, slots in SLOTS.items():
            while sum(running.lane == lane for running in list(self._running.values())) < slots:
                held = self.claims.claim(lane)
                if held is None:
                    break
                before = self._running.get(held.id)
                if before is not None:  # it lapsed while we held it: that claim is over
                    before.lost.set()
                lost = threading.Event()
                thread = threading.Thread(target=self._work, args=(held, lost), name=held.id, daemon=True)
                self._running[held.id] = _Running(held, lane, thread, lost)
                thread.start()

    def _renew(self) -> None:
        held = {grading_id: running.held.fence for grading_id, running in list(self._running.items())}
        if not held:
            return
        for grading_id in held.keys() - self.claims.renew(held):
            running = self._running.get(grading_id)
            if running is not None:
                running.lost.set()

    def _work(self, held: HeldGrading, lost: threading.Event) -> None:
        try:
            self._see_through(held, lost)
        except (Stopped, StaleFence):
            log.info("grading %s is left as it stands", held.id)
        except GradingFailure as failure:
            self._give_up(held, failure)
        except Exception as error:
            log.exception("grading %s", held.id)
            self._give_up(held, error)
        finally:
            mine = self._running.get(held.id)
            if mine is not None and mine.held is held:
                del self._running[held.id]
            self._awake.set()

    def _give_up(self, held: HeldGrading, error: Exception) -> None:
        try:
            if isinstance(error, GradingFailure):
                held.fail(error.code, error.message)
            else:
                self.claims.went_wrong(held, error)
        except StaleFence:
            log.info("grading %s is not ours any more", held.id)
        except Exception as second:  # its lease will lapse
            log.warning("grading %s: %s", held.id, second)

    def _see_through(self, held: HeldGrading, lost: threading.Event) -> None:
        def check() -> None:
            if self._stopping.is_set() or lost.is_set():
                raise Stopped

        if held.grading.reuse_cells:
            regrader = Regrader(held, Rubrics(held), check)
            regrader.run()
            held.succeed(regrader.summary.as_json())
            return
        if held.grading.purpose == "drafting":
            Drafting(held, check, self.bell.listen(channel(held.id)), self.asked).run()
            return
        if held.grading.purpose in ("revision", "labelling"):
            kind = Revising if held.grading.purpose == "revision" else Labelling
            most = WINDOWS * self.settings.grading.concurrency // 4
            kind(held, most, check, self.bell.listen(channel(held.id)), self.asked).run()
            return
        is_try = held.grading.purpose == "try"
        results = Answer(held) if is_try else StoredResults(held)
        grader = Grader(
            held=held,
            rubrics=Rubrics(held),
            results=results,
            window=WINDOWS * self.settings.grading.concurrency,
            priority=int(is_try),
            check=check,
            wait=self.bell.listen(channel(held.id)),
            asked=self.asked,
        )
        grader.run()
        answer = {"result": results.result} if isinstance(results, Answer) else {}
        held.succeed(grader.summary.as_json(), **answer)
