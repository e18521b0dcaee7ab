"""Flags over the last 20 rollouts: raised when they become true, quiet on noise, the same after a resume."""

import json
import random

import pytest

from tests.support.training import Grader, run_of, spec_of
from workers.training.watch import WINDOW, Watch


def feed(rows, watch=None):
    watch = watch or Watch()
    return [(k, kind, data) for k, row in enumerate(rows, 1) for kind, data in watch.observe(row)[1]]


def line(start, slope, count, noise=0.01, seed=0):
    rng = random.Random(seed)
    return [start + slope * k + rng.gauss(0, noise) for k in range(count)]


def test_audit_falling_while_reward_rises_is_the_alarm():
    rewards, audits = line(0.2, 0.02, 30), line(0.8, -0.01, 30, seed=1)
    flags = feed([{"reward": r, "audit": a} for r, a in zip(rewards, audits, strict=True)])
    (at, kind, data), *more = flags
    assert (at, kind, data["window"], more) == (WINDOW, "alarm.audit_falls", 20, [])  # once, though it lasts
    assert data["reward"]["after"] > data["reward"]["before"]
    assert data["audit"]["after"] < data["audit"]["before"]


@pytest.mark.parametrize(("reward", "audit"), [(0.02, 0.01), (-0.02, -0.01), (0.02, 0.0), (0.0, -0.01), (0.0, 0.0)])
def test_other_courses_are_no_alarm(reward, audit):
    rows = zip(line(0.5, reward, 60), line(0.5, audit, 60, seed=1), strict=True)
    assert feed([{"reward": r, "audit": a} for r, a in rows]) == []


def test_noise_alone_raises_almost_nothing():
    """Both conditions at two standard errors: by chance about once in 1,600 windows, of which 400 are independent here."""
    count = 0
    for seed in range(200):
        rows = zip(line(0.5, 0, 40, 0.1, seed), line(0.5, 0, 40, 0.1, 1000 + seed), strict=True)
        count += len(feed([{"reward": r, "audit": a} for r, a in rows]))
    assert count <= 4


def test_it_may_be_raised_again_after_it_was_gone():
    up, down = line(0.2, 0.02, 25), line(0.7, -0.02, 40, seed=3)
    audits = line(0.8, -0.01, 90, seed=1)
    rewards = up + down + line(0.0, 0.02, 25, seed=4)
    found = feed([{"reward": r, "audit": a} for r, a in zip(rewards, audits, strict=True)])
    assert [kind for _, kind, _ in found] == ["alarm.audit_falls"] * 2
    assert found[1][0] - found[0][0] >= WINDOW


def test_a_criterion_that_saturates():
    rows = [{"no_spread.a": 1.0 if k >= 10 else 0.5, "score.a": 0.99, "no_spread.b": 0.9} for k in range(60)]
    ((at, kind, data),) = feed(rows)
    # 95 % on average over 20: two rollouts at .5 among 18 at 1 are the first window that holds that much
    assert (at, kind) == (28, "criterion.saturated")
    assert data == {"window": 20, "criterion": "a", "no_spread": pytest.approx(0.95), "score": pytest.approx(0.99)}


def test_a_judge_that_disagrees_with_itself():
    ((_, kind, data),) = feed([{"noise_share.a": 0.6, "noise_share.b": 0.4} for _ in range(30)])
    assert (kind, data["criterion"]) == ("criterion.disagrees", "a")


def test_confidence_that_drifts_up_while_audit_falls():
    confidences, audits = line(0.5, 0.01, 25, 0.001), line(0.8, -0.01, 25, seed=1)
    rows = [{"confidence.a": c, "confidence.b": 0.7, "audit": x} for c, x in zip(confidences, audits, strict=True)]
    ((_, kind, data),) = feed(rows)
    assert (kind, data["criterion"]) == ("criterion.confidence_drift", "a")
    assert feed([{k: v for k, v in row.items() if k != "audit"} for row in rows]) == []  # without audit nothing is said


def test_change_of_shares():
    watch = Watch()
    assert watch.observe({"share.a": 0.5, "share.b": 0.5})[0] == {}
    assert watch.observe({"share.a": 0.7, "share.b": 0.3})[0] == {"share_change": pytest.approx(0.2)}
    assert watch.observe({})[0] == {}  # a rollout without a group that has shares
    assert watch.observe({"share.a": 1.0})[0] == {"share_change": pytest.approx(0.3)}


def test_it_goes_on_after_a_resume():
    rewards, audits = line(0.2, 0.02, 60), line(0.8, -0.01, 60, seed=1)
    rows = [{"reward": r, "audit": a, "share.a": r} for r, a in zip(rewards, audits, strict=True)]
    straight, broken = Watch(), Watch()
    for k, row in enumerate(rows):
        if k % 7 == 0:
            broken = Watch.from_json(json.loads(json.dumps(broken.to_json())))
        assert straight.observe(row) == broken.observe(row)
    assert straight == broken


def test_a_run_reports_them(tiny_folder, load):
    """A judge whose score is the audit's opposite, in a real training run: the loop writes series and events."""
    run = run_of(load(tiny_folder), spec_of(training={"steps": 40, "learning_rate": 0.01}), grader=Opposed())
    run.go()
    assert set(run.recorder.metric["share_change"]) == set(range(2, 41))
    kinds = {kind for kind, _ in run.recorder.events}
    assert "alarm.audit_falls" in kinds
    assert all(data["step"] >= WINDOW for _, data in run.recorder.events)


class Opposed(Grader):
    """`even` is trained, and audited is that tokens be odd."""

    def __init__(self):
        from service.domain.scoring import CriterionWeight

        super().__init__()
        self.criteria = [*self.criteria, CriterionWeight("odd", 1.0, audit=True)]

    def cells(self, step, index, completion):
        found = super().cells(step, index, completion)
        even = found["even"]
        return {**found, "odd": even.model_copy(update={"criterion": "odd", "score": 1 - even.score, "audit": True})}
