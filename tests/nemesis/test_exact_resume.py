"""Killed in any phase, a job ends with the bytes of one that was left alone; `python -m tests.nemesis.resume` tries many moments."""

import signal

import pytest

from tests.nemesis.resume import PHASES, PLAIN, Killed, phase_of
from tests.support.judge import FakeJudge
from tests.support.stack import RunningStack

pytestmark = [pytest.mark.crash, pytest.mark.heavy]


@pytest.fixture(scope="module")
def jobs(open_folder):
    stack = RunningStack(open_folder / "resumed", {"GRAPE_JOBS__WAITING_CHILDREN": "2"}).start()
    with FakeJudge() as judge, stack.client() as api:
        yield Killed(stack, api, judge)
    stack.stop(signal.SIGTERM)


@pytest.mark.parametrize(
    ("kind", "seed"),
    [*(("grape", seed) for seed in range(len(PHASES))), *((kind, seed) for seed, kind in enumerate(PLAIN))],
)
def test_a_killed_job_ends_with_the_same_bytes(jobs, kind, seed):
    wrong, how = jobs.differ(kind, seed, phase_of(kind, seed))
    assert wrong is None, f"{kind}, seed {seed}, killed in {how}: {wrong}"
