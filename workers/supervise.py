"""The body of the training task: hold a claimed job, with a child that runs it, until one of them ends.

The lease is renewed here, so a busy child never loses it. Cancel and a lost lease kill the child at once; pause and drain ask
it to checkpoint. Only this side moves the job's state, and only under the fence.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from workers.nursery import Child, Nursery
from workers.runs.claims import Claim, Claims
from workers.watchdog import Watchdog

log = logging.getLogger(__name__)

TICK_S = 0.5
LOG_EVERY_S = 1.0
DUMP_S = 1.0
"""Time for a child that hangs to write its stacks."""
LOG_LIMIT = 64 << 20
"""Bytes of output that are kept of one attempt."""


@dataclass(slots=True)
class Runner:
    """What a training worker process has."""

    claims: Claims
    nursery: Nursery
    draining: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    idle: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.idle.set()

    def run_next(self) -> bool:
        """Claim the best queued job and see it through; false if there is none, or this process is busy or draining."""
        if not self.lock.acquire(blocking=False):
            return False
        self.idle.clear()
        try:
            if self.draining.is_set() or not self.nursery.has_one():
                return False
            claim = self.claims.claim()
            if claim is None:
                return False
            child = self.nursery.take()
            if child is None:  # it died between the two lines
                self.claims.fail(
                    claim.job_id, claim.fence, claim.failures, "internal", "the training process did not start"
                )
                return True
            Watch(self.claims, self.draining, claim, child).until_it_ends(self.nursery)
            return True
        finally:
            self.idle.set()
            self.lock.release()


@dataclass(slots=True)
class Watch:
    """One claimed job and its child."""

    claims: Claims
    draining: threading.Event
    claim: Claim
    child: Child
    _wished: str = "run"
    _runs: bool = False
    _finalize_asked: bool = False
    _ended: dict[str, Any] | None = None
    _lost: bool = False
    _log_seq: int = 0
    _log_bytes: int = 0
    _log_due: float = 0.0
    _unsent: str = ""
    _watchdog: Watchdog = field(init=False)

    def __post_init__(self) -> None:
        self._watchdog = Watchdog(self.claims.settings.no_progress_s)

    def until_it_ends(self, nursery: Nursery) -> None:
        """Supervise, then move the job as its end demands."""
        log.info("job %s under fence %d runs in process %d", self.claim.job_id, self.claim.fence, self.child.pid)
        nursery.announce(self.child)
        try:
            claim = self.claim
            self.child.send({"job_id": claim.job_id, "fence": claim.fence, "processes": claim.processes})
            self._supervise()
        finally:
            self.child.kill()
            code = self.child.wait()
            nursery.bury(self.child)
        while not self.child.messages.empty():
            self._hear(self.child.messages.get_nowait())
        if not self._lost:
            self._forward_log(everything=True)
            self._conclude(code)

    def _supervise(self) -> None:
        renew_at = time.monotonic() + self.claims.settings.heartbeat_s
        while self._ended is None and self.child.alive():
            with contextlib.suppress(queue.Empty):
                self._hear(self.child.messages.get(timeout=TICK_S))
            if self._ended is None and self.child.messages.empty() and self._watchdog.look():
                self._give_up()
                return
            try:
                if time.monotonic() >= renew_at:
                    renew_at = time.monotonic() + self.claims.settings.heartbeat_s
                    self._lost = not self.claims.renew(self.claim)
                if not self._lost:
                    self._obey(self.claims.status(self.claim))
                if self._lost:
                    log.info("job %s is no longer ours: its child is killed", self.claim.job_id)
                    return
                self._forward_log()
            except SQLAlchemyError as error:
                # The child works on; its writes are fenced, so nothing can go wrong by waiting.
                log.warning("database: %s", str(error).splitlines()[0])

    def _give_up(self) -> None:
        """The child hangs: its stacks go to the log, then it is killed and the attempt ends."""
        silent_s = self._watchdog.silent_s
        log.warning("job %s has shown no sign of life for %.0f s", self.claim.job_id, silent_s)
        self.child.dump_stacks()
        time.sleep(DUMP_S)
        said = f"no sign of life for {silent_s:.0f} s; where it stood is at the end of this attempt's log"
        self._ended = {"type": "ended", "outcome": "failed", "code": "no_progress", "message": said}

    def _hear(self, message: dict[str, Any]) -> None:
        self._watchdog.hear(message)
        kind = message["type"]
        if kind == "ended":
            self._ended = message
        elif kind == "running":
            self._runs = True
        elif kind == "finalizing":
            self._finalize_asked = True

    def _obey(self, status: str | None) -> None:
        """Turn the row's state into a wish of the child."""
        if status is None:
            self._lost = True
            return
        wish = "drain" if self.draining.is_set() else "pause" if status == "pausing" else "run"
        # The row follows what the child has said, now or as soon as the database answers and no pause is on.
        if wish == "run" and status == "starting" and self._runs:
            self.claims.move("run", self.claim)
        asked = wish == "run" and self._finalize_asked
        if asked and (status == "finalizing" or self.claims.move("finalize", self.claim)):
            wish = "finalize"
        if wish != self._wished:
            self._wished = wish
            self.child.send({"wish": wish})

    def _forward_log(self, *, everything: bool = False) -> None:
        if not everything and time.monotonic() < self._log_due:
            return
        self._log_due = time.monotonic() + LOG_EVERY_S
        if (
            not self._unsent
        ):  # else the database is away; what the child prints meanwhile waits in its own bounded place
            self._unsent = self.child.output.take()
            if not self._unsent or self._log_bytes > LOG_LIMIT:
                self._unsent = ""
                return
            self._log_bytes += len(self._unsent)
            if self._log_bytes > LOG_LIMIT:
                self._unsent += "\n(the log of this attempt is full; nothing more is kept)\n"
        try:
            self.claims.append_log(self.claim, self._log_seq, self._unsent)
            self._log_seq += 1
            self._unsent = ""
        except SQLAlchemyError as error:
            log.warning("log of %s: %s", self.claim.job_id, str(error).splitlines()[0])

    def _conclude(self, code: int) -> None:
        """Move the job. If the database is away now, the lease lapses and the job is taken up again."""
        ended = self._ended or {"outcome": "died"}
        outcome = ended["outcome"]
        claim = self.claim
        log.info(
            "job %s: the child ended with %s",
            claim.job_id,
            {k: v for k, v in ended.items() if k not in ("type", "report")},
        )
        if self._runs:
            self.claims.move("run", claim)  # it may have ended before the row said so
        if outcome == "succeeded":
            self.claims.succeed(claim, ended["best"], ended["last"], ended.get("report"))
        elif outcome == "stopped":
            # A pause that was withdrawn too late to keep the child: the job goes on from its checkpoint, like a drain.
            if not self.claims.move("stopped", claim, end_reason="paused"):
                self.claims.move("drain", claim, end_reason="drained", data={"drained": self.draining.is_set()})
        elif outcome == "suspended":
            self.claims.move("suspend", claim, reason=ended["reason"], end_reason="suspended")
        elif outcome == "failed":
            self._fail(ended["code"], ended["message"])
        elif outcome == "died":
            self._fail(*cause_of_death(code))

    def _fail(self, code: str, message: str) -> None:
        self.claims.fail(self.claim.job_id, self.claim.fence, self.claim.failures, code, message)


def cause_of_death(code: int) -> tuple[str, str]:
    """The failure code for a child that ended without a word."""
    if code == -9:
        return "oom_host", "the training process was killed (SIGKILL): out of memory, or by hand"
    if code < 0:
        return "internal", f"the training process ended by signal {-code}"
    return "internal", f"the training process ended with exit code {code} and without a word; see the job's log"
