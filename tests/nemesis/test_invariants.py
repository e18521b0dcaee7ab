"""Each invariant finds the violation that is planted in a history where everything is well, and none other does."""

import copy

import pytest

from tests.nemesis.history import Call, CheckpointFound, Glance, History, Reader
from tests.nemesis.invariants import INVARIANTS, check
from tests.nemesis.plan import plan


def event(seq, kind, attempt=0, **data):
    return {"seq": seq, "type": kind, "attempt": attempt, "data": data}


EVENTS = [
    event(1, "job.queued"),
    event(2, "job.starting", 1, **{"from": "queued", "worker": "w", "host": "h"}),
    event(3, "job.running", 1, **{"from": "starting"}),
    event(4, "job.warning", 1, code="not_packed"),
    event(5, "job.retry_wait", 1, **{"from": "running", "failures": 1, "reason": "oom_host: killed"}),
    event(6, "job.queued", 1, **{"from": "retry_wait"}),
    event(7, "job.starting", 2, **{"from": "queued"}),
    event(8, "job.running", 2, **{"from": "starting"}),
    event(9, "checkpoint.created", 2, step=4),
    event(10, "job.finalizing", 2, **{"from": "running"}),
    event(11, "job.succeeded", 2, **{"from": "finalizing"}),
]
RESULT = {"model": "mdl_1", "best_checkpoint": "ckpt_1", "last_checkpoint": "ckpt_1"}


def row(status, **values):
    return {
        "status": status, "status_reason": None, "error": None, "result": None, "fence": 0, "attempt": 0, "failures": 0,
        "progress_step": 0, "finished_at": None, "finished": None, **values,
    }  # fmt: skip


def shown(job_row):
    return {name: job_row[name] for name in ("status", "error", "result", "finished_at")}


@pytest.fixture
def history():
    """One job that lost its first attempt and succeeded, one that was cancelled while it ran, one that is paused."""
    good = row("succeeded", result=RESULT, fence=2, attempt=2, failures=1, event_seq=11, progress_step=4,
               metadata={"key": "k1"}, finished_at="2026-01-01T00:00:09Z", finished=9.0)  # fmt: skip
    gone = row("cancelled", fence=2, attempt=1, event_seq=4, metadata={"key": "k2"},
               finished_at="2026-01-01T00:00:05Z", finished=5.0)  # fmt: skip
    paused = row("paused", event_seq=2, metadata={"key": "k3"})
    gone_events = [*EVENTS[:3], event(4, "job.cancelled", 1, **{"from": "running"})]
    paused_events = [EVENTS[0], event(2, "job.paused", 0, **{"from": "queued"})]
    queued = shown(row("queued"))
    return History(
        seed=0,
        calls=[
            Call("create", 0, 1, "job_1", "k1", None, error="no answer"),
            Call("create", 1, 2, "job_1", "k1", 201, replayed=True, answer=queued),
            Call("create", 1, 2, "job_2", "k2", 201, answer=queued),
            Call("create", 1, 2, "job_3", "k3", 201, answer=queued),
            Call("cancel", 4, 5, "job_2", "k4", 200, answer=shown(gone)),
            Call("get", 8.5, 10, "job_1", None, 200, answer=shown(row("running"))),  # sent before the end was told
            Call("get", 9, 9.5, "job_1", None, 200, answer=shown(good)),
            Call("resume", 11, 12, "job_1", "k5", 200, replayed=True, answer=shown(row("running"))),
        ],
        readers=[
            Reader("job_1", copy.deepcopy(EVENTS), 3, True),
            Reader("job_2", gone_events, 1, True),
            Reader("job_3", paused_events, 1, False),
        ],
        glances=[Glance(1, []), Glance(2, [11]), Glance(3, [12])],
        checkpoints=[CheckpointFound("ckpt_1", "job_1", 4, 2, {"m": "aa", "n": "bb"}, {"m": "aa", "n": "bb"})],
        jobs={"job_1": good, "job_2": gone, "job_3": paused},
        events={"job_1": copy.deepcopy(EVENTS), "job_2": gone_events, "job_3": paused_events},
        attempts={
            "job_1": [
                {"fence": 1, "started_at": 1.0, "ended_at": 3.0, "resumed_from_step": 0},
                {"fence": 2, "started_at": 3.5, "ended_at": 9.0, "resumed_from_step": 2},
            ],
            "job_2": [{"fence": 1, "started_at": 3.0, "ended_at": 5.0, "resumed_from_step": 0}],
        },
        writes={
            "job_1": [{"at": 2.0, "fence": 1, "what": "loss"}, {"at": 4.0, "fence": 2, "what": "loss"}],
            "job_2": [{"at": 4.9, "fence": 1, "what": "loss"}],
        },
    )


def violate(history, number):
    """Plant one violation of invariant `number` (and, for `I10`, in what the readers saw too)."""
    if number == "I1":
        history.calls.append(Call("get", 20, 21, "job_1", None, 200, answer=shown(row("failed"))))
    elif number == "I2":
        history.writes["job_1"].append({"at": 5.0, "fence": 1, "what": "reward"})
    elif number == "I3":
        history.jobs["job_3"]["status"] = "running"
        history.events["job_3"] = history.readers[2].seen = EVENTS[:3]
        history.jobs["job_3"] |= {"event_seq": 3, "fence": 1, "attempt": 1}
        history.attempts["job_3"] = [{"fence": 1, "started_at": 2.0, "ended_at": None, "resumed_from_step": None}]
    elif number == "I4":
        del history.readers[0].seen[4]
    elif number == "I5":
        history.checkpoints[0].found["n"] = "cc"
    elif number == "I6":
        history.glances.append(Glance(4, [11, 12]))
    elif number == "I7":
        history.jobs["job_3"]["metadata"]["key"] = "k2"
        next(call for call in history.calls if call.job == "job_3").key = "k3"
    elif number == "I8":
        history.checkpoints[0].fence = 1  # and the second attempt went on from an earlier step
    elif number == "I9":
        history.writes["job_2"].append({"at": 5.1, "fence": 1, "what": "loss"})
    elif number == "I10":
        for seen in (history.events["job_1"], history.readers[0].seen):
            seen[7]["data"]["from"] = "paused"


def test_a_history_in_which_all_is_well_has_no_violation(history):
    assert check(history) == []


@pytest.mark.parametrize("number", INVARIANTS)
def test_a_planted_violation_is_found(history, number):
    violate(history, number)
    assert {said.split(":")[0] for said in check(history)} == {number}


def said_of(history, number):
    return [said for said in check(history) if said.startswith(f"{number}:")]


def test_a_row_that_changes_after_its_end_was_told_is_found(history):
    history.jobs["job_2"]["error"] = {"code": "internal", "message": "late"}
    assert said_of(history, "I1")


def test_a_fence_without_an_attempt_and_one_of_two_attempts_are_found(history):
    history.writes["job_2"].append({"at": 4.95, "fence": 2, "what": "loss"})
    assert "no attempt held" in said_of(history, "I2")[0]
    history.writes["job_2"].pop()
    history.attempts["job_2"].append(dict(history.attempts["job_2"][0], started_at=5.0))
    assert "several attempts" in said_of(history, "I2")[0]


def test_a_created_job_that_is_gone_is_found(history):
    del history.jobs["job_3"]
    assert said_of(history, "I3") == ["I3: job_3 was created, and is not there"]


@pytest.mark.parametrize("what", ["twice", "swapped", "other type", "gap", "no end", "end too soon"])
def test_what_a_reader_must_not_see_is_found(history, what):
    seen = history.readers[0].seen
    if what == "twice":
        seen.insert(3, seen[3])
    elif what == "swapped":
        seen[3], seen[4] = seen[4], seen[3]
    elif what == "other type":
        seen[3]["type"] = "job.running"
    elif what == "gap":
        del seen[4], history.events["job_1"][4]
    elif what == "no end":
        history.readers[0].ended = False
    else:
        history.readers[2].ended = True
    assert said_of(history, "I4")


def test_a_missing_file_and_one_that_does_not_load_are_found(history):
    del history.checkpoints[0].found["m"]
    assert said_of(history, "I5")
    history.checkpoints[0].found["m"], history.checkpoints[0].problem = "aa", "no header"
    assert said_of(history, "I5") == ["I5: ckpt_1 of job_1 does not load: no header"]


def test_attempts_that_overlap_or_never_ended_are_found(history):
    history.attempts["job_1"][0]["ended_at"] = 3.6
    assert said_of(history, "I6")
    for attempt in (0, 1):
        history.attempts["job_1"][attempt]["ended_at"] = None
        assert len(said_of(history, "I6")) == 1 + attempt


def test_two_answers_to_one_key_are_found(history):
    history.calls.append(Call("create", 2, 3, "job_2", "k1", 201, answer=shown(row("queued"))))
    assert said_of(history, "I7")


@pytest.mark.parametrize("change", [{"id": "ckpt_2"}, {"job": "job_2"}, {"step": 3}])
def test_a_success_without_its_checkpoint_is_found(history, change):
    for name, value in change.items():
        setattr(history.checkpoints[0], name, value)
    assert said_of(history, "I8")


def test_an_attempt_that_had_nothing_left_to_train_may_keep_the_checkpoint(history):
    history.attempts["job_1"].append({"fence": 3, "started_at": 9.0, "ended_at": 9.2, "resumed_from_step": 4})
    assert not said_of(history, "I8")


@pytest.mark.parametrize("what", ["lost", "not final", "event"])
def test_a_cancel_that_is_not_final_is_found(history, what):
    (cancel,) = [call for call in history.calls if call.what == "cancel"]
    if what == "lost":
        history.jobs["job_2"]["status"] = "succeeded"
    elif what == "not final":
        cancel.answer["status"] = "running"
    else:
        history.events["job_2"].append(event(5, "checkpoint.created", 1))
    assert said_of(history, "I9")


@pytest.mark.parametrize(
    ("name", "value"), [("event_seq", 12), ("fence", 3), ("failures", 0), ("attempt", 1), ("status_reason", "x")]
)
def test_a_row_that_its_events_do_not_give_is_found(history, name, value):
    history.jobs["job_1"][name] = value
    assert said_of(history, "I10")


def test_a_claim_without_an_attempt_is_found(history):
    del history.attempts["job_1"][0]
    assert "2 claims, and 1 attempts" in said_of(history, "I10")[0]
    history.jobs["job_2"]["fence"] = 1  # cancel raises it above the attempt's
    assert "the last attempt's 1" in said_of(history, "I10")[1]


def test_events_of_a_job_that_nobody_holds_and_moves_that_do_not_exist_are_found(history):
    history.events["job_1"].insert(1, event(2, "checkpoint.created", 0))
    assert "while queued" in said_of(history, "I10")[0]
    del history.events["job_1"][1]
    history.events["job_1"][2]["type"] = "job.succeeded"
    assert any("the state machine has not" in said for said in said_of(history, "I10"))


def test_a_seed_is_a_plan_and_nothing_else():
    assert plan(7, 60) == plan(7, 60)
    assert plan(7, 60) != plan(8, 60)
    for seed in range(20):
        made = plan(seed, 60)
        assert [act.job for act in made.acts if act.what == "create"] == list(range(10))
        assert all(0 <= act.at <= 60 for act in made.acts)
        assert len(made.blows) >= 4
        created = {act.job: act.at for act in made.acts if act.what == "create"}
        assert all(act.at >= created[act.job] for act in made.acts)
