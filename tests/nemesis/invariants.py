"""I1 to I10: what must hold over a recorded history, whatever was done to the stack. Each gives sentences about what does not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from service.domain.job_state import HELD, STATES, TERMINAL, TRANSITIONS
from tests.nemesis.history import Call, History

FINAL = ("status", "error", "result", "finished_at")
"""What never changes once a job has ended."""
ALLOWED = {(old, new) for moves in TRANSITIONS.values() for old, new in moves.items()}


def check(history: History) -> list[str]:
    """Every violation of every invariant, each with its number."""
    return [f"{name}: {said}" for name, invariant in INVARIANTS.items() for said in invariant(history)]


def _answers(history: History) -> dict[str, list[Call]]:
    """Fresh answers that show a job, by job, in the order of their end."""
    found = defaultdict(list)
    for call in sorted(history.calls, key=lambda call: call.ended):
        if call.answer is not None and call.job is not None and not call.replayed:
            found[call.job].append(call)
    return found


def _created(history: History) -> list[Call]:
    return [c for c in history.calls if c.what == "create" and c.status is not None and 200 <= c.status < 300]


def terminal_is_immutable(history: History) -> Iterator[str]:
    """I1. Who asks after a terminal state was answered is told the same, and so is the database at rest."""
    for job, calls in _answers(history).items():
        last = next((call for call in calls if call.answer["status"] in TERMINAL), None)
        if last is None:
            continue
        told = {name: last.answer[name] for name in FINAL}
        later = [call.answer for call in calls if call.began >= last.ended]
        if job in history.jobs:
            later.append(history.jobs[job])
        for answer in later:
            said = {name: answer[name] for name in FINAL}
            if said != told:
                yield f"{job} was told to have ended as {told}, and later as {said}"
                break


def fences_do_not_go_back(history: History) -> Iterator[str]:
    """I2. What was written of a job comes from ever later fences, and one attempt holds each fence."""
    for job, writes in history.writes.items():
        for earlier, later in pairwise(writes):
            if later["fence"] < earlier["fence"]:
                yield (
                    f"{job}: {later['what']} of fence {later['fence']} was written after {earlier['what']} of {earlier['fence']}"
                )
        held = [attempt["fence"] for attempt in history.attempts.get(job, [])]
        if len(set(held)) != len(held):
            yield f"{job}: a fence was held by several attempts: {held}"
        strange = {write["fence"] for write in writes} - set(held)
        if strange:
            yield f"{job}: fences {sorted(strange)} wrote, and no attempt held them"


def created_jobs_come_to_rest(history: History) -> Iterator[str]:
    """I3. What was answered with 2xx is there when faults stop, and ends or is paused."""
    for job in sorted({call.job for call in _created(history)}):
        row = history.jobs.get(job)
        if row is None:
            yield f"{job} was created, and is not there"
        elif row["status"] not in TERMINAL and row["status"] != "paused":
            yield f"{job} is still {row['status']} ({row['status_reason']})"


def readers_see_every_event_once(history: History) -> Iterator[str]:
    """I4. A reader that is cut off and resumes sees 1 to N once each, and what it sees is what is stored."""
    for number, reader in enumerate(history.readers):
        stored = [(event["seq"], event["type"]) for event in history.events.get(reader.job, [])]
        seen = [(event["seq"], event["type"]) for event in reader.seen]
        if [seq for seq, _ in stored] != list(range(1, len(stored) + 1)):
            yield f"{reader.job}: stored events are not 1 to N: {[seq for seq, _ in stored]}"
        if seen != stored:
            first = next(
                (k for k, (a, b) in enumerate(zip(seen, stored, strict=False)) if a != b), min(len(seen), len(stored))
            )
            yield (
                f"reader {number} of {reader.job} ({reader.connections} connections) saw {len(seen)} events of {len(stored)};"
                f" from the {first + 1}th on {seen[first : first + 3]} instead of {stored[first : first + 3]}"
            )
        status = history.jobs.get(reader.job, {}).get("status")
        if reader.ended != (status in TERMINAL):
            yield f"reader {number} of {reader.job}: end {'came' if reader.ended else 'never came'}, and the job is {status}"


def checkpoints_verify(history: History) -> Iterator[str]:
    """I5. The files of a listed checkpoint are those that are listed, and it loads."""
    for checkpoint in history.checkpoints:
        for path, sha256 in checkpoint.listed.items():
            if checkpoint.found.get(path) != sha256:
                yield f"{checkpoint.id} of {checkpoint.job}: {path} is {checkpoint.found.get(path)}, listed as {sha256}"
        if checkpoint.problem:
            yield f"{checkpoint.id} of {checkpoint.job} does not load: {checkpoint.problem}"


def one_holder_at_a_time(history: History) -> Iterator[str]:
    """I6. The one training worker's device is never used by two children, and no job is held by two attempts at a time."""
    for glance in history.glances:
        if len(glance.children) > 1:
            yield f"at {glance.at:.1f} s the children {glance.children} ran side by side"
            break
    for job, attempts in history.attempts.items():
        for earlier, later in pairwise(attempts):
            if earlier["ended_at"] is None or earlier["ended_at"] > later["started_at"]:
                yield f"{job}: fence {later['fence']} began before {earlier['fence']} had ended"
        if attempts[-1]["ended_at"] is None and history.jobs[job]["status"] not in HELD:
            yield f"{job} is {history.jobs[job]['status']}, and fence {attempts[-1]['fence']} still holds it"


def one_key_makes_one_job(history: History) -> Iterator[str]:
    """I7. Whatever is answered to one Idempotency-Key is one job, and the database has no second."""
    made: dict[str | None, set[str | None]] = defaultdict(set)
    for call in _created(history):
        made[call.key].add(call.job)
    for job, row in history.jobs.items():
        made[row["metadata"].get("key")].add(job)
    for key, jobs in made.items():
        if len(jobs) > 1:
            yield f"the key {key} made {sorted(map(str, jobs))}"


def success_has_its_checkpoint(history: History) -> Iterator[str]:
    """I8. What a succeeded job names as last is registered at its last step, by the last fence or by one whose last step left
    the later ones nothing to train.
    """
    registered = {checkpoint.id: checkpoint for checkpoint in history.checkpoints}
    for job, row in history.jobs.items():
        if row["status"] != "succeeded":
            continue
        last = registered.get((row["result"] or {}).get("last_checkpoint"))
        if last is None or last.job != job:
            yield f"{job} succeeded, and its last checkpoint {row['result']} is not listed"
            continue
        if last.step != row["progress_step"]:
            yield f"{job} did {row['progress_step']} steps, and its last checkpoint is of step {last.step}"
        for attempt in history.attempts[job]:
            if attempt["fence"] > last.fence and attempt["resumed_from_step"] not in (None, last.step):
                yield (
                    f"{job}: its last checkpoint is of fence {last.fence}, and fence {attempt['fence']} went on"
                    f" from step {attempt['resumed_from_step']}"
                )


def cancel_is_final(history: History) -> Iterator[str]:
    """I9. Whoever was answered 200 on cancel finds the job cancelled (or as it had ended before), and it writes nothing after."""
    for call in history.calls:
        if call.what != "cancel" or call.status != 200 or call.answer is None:
            continue
        said, row = call.answer["status"], history.jobs.get(call.job or "")
        if said not in TERMINAL:
            yield f"cancel of {call.job} was answered with status {said}"
        elif row is not None and row["status"] != said:
            yield f"cancel of {call.job} was answered with {said}, and it is {row['status']}"
    for job, row in history.jobs.items():
        if row["status"] != "cancelled":
            continue
        for write in history.writes.get(job, []):
            if write["at"] > row["finished"]:
                yield f"{job} is cancelled, and wrote {write['what']} (fence {write['fence']}) afterwards"
        if history.events[job][-1]["type"] != "job.cancelled":
            yield f"{job} is cancelled, and wrote {history.events[job][-1]['type']} afterwards"


def events_rebuild_the_row(history: History) -> Iterator[str]:
    """I10. Replayed from the first, the events make moves that the state machine has, and end in the job's row."""
    for job, row in history.jobs.items():
        rebuilt: dict[str, Any] = {
            "status": None, "status_reason": None, "error": None, "event_seq": 0, "failures": 0, "attempt": 0,
        }  # fmt: skip
        claims, fences = 0, [attempt["fence"] for attempt in history.attempts.get(job, [])]
        for event in history.events.get(job, []):
            rebuilt["event_seq"] = event["seq"]
            old, new = event["data"].get("from"), event["type"].removeprefix("job.")
            if new not in STATES:
                if rebuilt["status"] not in HELD:
                    yield f"{job}: event {event['seq']} ({event['type']}) while {rebuilt['status']}"
                continue
            if old != rebuilt["status"]:
                yield f"{job}: event {event['seq']} moves from {old}, and the job was {rebuilt['status']}"
            if old is not None and (old, new) not in ALLOWED:
                yield f"{job}: event {event['seq']} moves from {old} to {new}, which the state machine has not"
            if old in TERMINAL:
                yield f"{job}: event {event['seq']} moves a job that had ended"
            rebuilt["status"], rebuilt["status_reason"] = new, event["data"].get("reason")
            claims += new == "starting"
            rebuilt["failures"] = event["data"].get("failures", rebuilt["failures"])
            rebuilt["attempt"] = event["attempt"]
            if new == "failed":
                rebuilt["error"], rebuilt["failures"] = event["data"].get("error"), row["failures"]
        said = {name: row[name] for name in rebuilt}
        if row["status"] in HELD:  # a reason may come and go while a job is held (`grading.waiting`)
            said["status_reason"] = rebuilt["status_reason"]
        if said != rebuilt:
            yield f"{job}: its events say {rebuilt}, its row {said}"
        if claims != len(fences):
            yield f"{job}: its events tell of {claims} claims, and {len(fences)} attempts are listed"
        last = max(fences, default=0)
        if not (row["fence"] > last if row["status"] == "cancelled" else row["fence"] == last):
            yield f"{job}: its fence is {row['fence']}, the last attempt's {last}, and it is {row['status']}"


INVARIANTS: dict[str, Callable[[History], Iterator[str]]] = {
    "I1": terminal_is_immutable,
    "I2": fences_do_not_go_back,
    "I3": created_jobs_come_to_rest,
    "I4": readers_see_every_event_once,
    "I5": checkpoints_verify,
    "I6": one_holder_at_a_time,
    "I7": one_key_makes_one_job,
    "I8": success_has_its_checkpoint,
    "I9": cancel_is_final,
    "I10": events_rebuild_the_row,
}
