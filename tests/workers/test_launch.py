"""What is said of an attempt of several processes that failed: the cause, not what followed from it."""

import signal

import pytest

from workers.launch import verdict

NOT_FINITE = {"type": "ended", "outcome": "failed", "code": "nonfinite_loss", "message": "the loss is not finite"}
LOST = {"type": "ended", "outcome": "failed", "code": "internal", "message": "RuntimeError: Connection closed by peer"}
TERM, KILL, ABORT = -signal.SIGTERM, -signal.SIGKILL, -signal.SIGABRT


@pytest.mark.parametrize(
    ("said", "codes", "code", "words"),
    [
        # The agent ends who is left by SIGTERM, whichever rank that is.
        ([], {0: TERM, 1: KILL}, "oom_host", "process 1 of the training was killed"),
        ([], {1: KILL, 0: TERM}, "oom_host", "process 1 of the training was killed"),
        ([LOST], {0: 1, 1: KILL}, "oom_host", "process 1 of the training was killed"),
        ([], {0: TERM, 1: ABORT}, "internal", "process 1 of the training ended by signal 6"),
        # What a process says of its own failure is the failure, also if the others were ended by the agent.
        ([NOT_FINITE], {0: 1, 1: TERM}, "nonfinite_loss", "the loss is not finite"),
        ([NOT_FINITE], {0: 1}, "nonfinite_loss", "the loss is not finite"),
        ([], {0: 3, 1: TERM}, "internal", "process 0 with exit code 3"),
        ([], {}, "internal", "no process was started"),
    ],
)
def test_the_cause_is_told(said, codes, code, words):
    told = verdict(said, codes)
    assert (told["type"], told["outcome"], told["code"]) == ("ended", "failed", code)
    assert words in told["message"]
