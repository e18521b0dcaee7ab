"""The job's state machine as data, and the published failure codes (jobs.md)."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

State = Literal[
    "queued", "starting", "running", "finalizing", "pausing", "paused", "retry_wait", "succeeded", "failed", "cancelled"
]
STATES: tuple[State, ...] = get_args(State)

TERMINAL: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})
HELD: frozenset[State] = frozenset({"starting", "running", "finalizing", "pausing"})
"""The states in which an attempt holds the job, with a fence and a lease."""

Event = Literal[
    "claim",
    "run",
    "finalize",
    "succeed",
    "fail",
    "cancel",
    "pause",
    "resume",
    "stopped",
    "drain",
    "retry",
    "due",
    "suspend",
]

_LIVE: tuple[State, ...] = tuple(s for s in STATES if s not in TERMINAL)

TRANSITIONS: dict[Event, dict[State, State]] = {
    # a worker takes it
    "claim": {"queued": "starting"},
    "run": {"starting": "running"},
    "finalize": {"running": "finalizing"},
    "succeed": {"finalizing": "succeeded"},
    "fail": dict.fromkeys(_LIVE, "failed"),
    # a person wishes
    "cancel": dict.fromkeys(_LIVE, "cancelled"),
    "pause": {"queued": "paused", "retry_wait": "paused", "starting": "pausing", "running": "pausing"},
    "resume": {"paused": "queued", "pausing": "running"},
    # the child has checkpointed and let go
    "stopped": {"pausing": "paused"},
    "drain": {"starting": "queued", "running": "queued", "finalizing": "queued", "pausing": "paused"},
    # a judge fails too often: pause at the checkpoint, with a reason
    "suspend": {"running": "paused", "pausing": "paused"},
    # the attempt is lost; who was pausing gets what was asked for
    "retry": {"starting": "retry_wait", "running": "retry_wait", "finalizing": "retry_wait", "pausing": "paused"},
    "due": {"retry_wait": "queued"},
}


class IllegalTransition(ValueError):
    """The event cannot happen in this state."""


def next_state(state: State, event: Event) -> State:
    """The state that follows; `IllegalTransition` where the table has none."""
    try:
        return TRANSITIONS[event][state]
    except KeyError:
        raise IllegalTransition(f"a job that is {state} cannot {event}") from None


class FailureCode(NamedTuple):
    """Whose fault a failure is, and whether the job is tried again."""

    user_caused: bool
    retryable: bool


FAILURES: dict[str, FailureCode] = {
    "data_invalid": FailureCode(True, False),
    "rubric_invalid": FailureCode(True, False),
    "model_invalid": FailureCode(True, False),
    "model_changed": FailureCode(True, False),
    "oom_gpu": FailureCode(True, False),
    "oom_host": FailureCode(False, True),
    "cuda_error": FailureCode(False, True),
    "nonfinite_loss": FailureCode(True, False),
    "kl_limit": FailureCode(True, False),
    "regression": FailureCode(True, False),
    "judge_unreachable": FailureCode(True, False),
    "judge_error_rate": FailureCode(True, False),
    "no_progress": FailureCode(False, True),
    "storage_full": FailureCode(False, False),
    "max_attempts": FailureCode(False, False),
    "internal": FailureCode(False, True),
}


class JobFailure(Exception):
    """A job cannot go on: a published code and a sentence for the person who submitted it."""

    def __init__(self, code: str, message: str) -> None:
        if code not in FAILURES:
            raise ValueError(f"'{code}' is not a published failure code")
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def retryable(self) -> bool:
        """Whether another attempt may succeed."""
        return FAILURES[self.code].retryable
