"""The state machine as jobs.md draws it."""

import itertools

import pytest

from service.domain.job_state import (
    FAILURES,
    HELD,
    STATES,
    TERMINAL,
    TRANSITIONS,
    IllegalTransition,
    JobFailure,
    next_state,
)

DRAWN = {
    ("queued", "starting"), ("starting", "running"), ("running", "finalizing"), ("finalizing", "succeeded"),
    ("running", "pausing"), ("starting", "pausing"), ("pausing", "paused"), ("paused", "queued"), ("queued", "paused"),
    ("retry_wait", "paused"), ("retry_wait", "queued"),
    *{(state, "retry_wait") for state in ("starting", "running", "finalizing")},  # lease lost or retryable failure
    *{(state, end) for state in STATES for end in ("failed", "cancelled") if state not in TERMINAL},
    ("starting", "queued"), ("running", "queued"), ("finalizing", "queued"),  # a drain releases
    ("pausing", "running"),  # resume withdraws the pause
    ("running", "paused"),  # judges fail too often
}  # fmt: skip


def test_the_table_is_the_drawing():
    edges = {(old, new) for moves in TRANSITIONS.values() for old, new in moves.items()}
    assert edges == DRAWN


def test_nothing_leaves_a_terminal_state():
    for event, state in itertools.product(TRANSITIONS, TERMINAL):
        with pytest.raises(IllegalTransition):
            next_state(state, event)


def test_every_state_is_reached_and_every_live_one_can_be_cancelled():
    reached = {new for moves in TRANSITIONS.values() for new in moves.values()} | {"queued"}
    assert reached == set(STATES)
    assert set(TRANSITIONS["cancel"]) == set(STATES) - TERMINAL
    assert set(TRANSITIONS["fail"]) == set(STATES) - TERMINAL


def test_pause_is_refused_while_finalizing():
    with pytest.raises(IllegalTransition):
        next_state("finalizing", "pause")


def test_a_lost_attempt_that_was_pausing_gets_what_was_asked_for():
    assert next_state("pausing", "retry") == "paused"
    assert next_state("pausing", "drain") == "paused"


def test_held_states_are_those_with_an_attempt():
    assert {"starting", "running", "finalizing", "pausing"} == HELD


def test_failures_are_published():
    assert FAILURES["oom_host"] == (False, True)
    assert FAILURES["data_invalid"] == (True, False)
    with pytest.raises(ValueError, match="not a published"):
        JobFailure("oops", "message")
    assert JobFailure("internal", "m").retryable
