"""`python -m tests.nemesis.resume --seeds N`: a job whose child is killed at a seeded moment ends with the bytes of an undisturbed one.

The moment is aimed: at the rollout (a step was just counted), at the wait for grades (a judge's call is in flight), at the update
(the last call was just answered) or at the checkpoint (its draft lies on the disk). The seed says which step, and how much later.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from contextlib import nullcontext, suppress
from pathlib import Path

from tests.integration.conftest import Bench
from tests.support.judge import FakeJudge, verdict
from tests.support.stack import RunningStack

PHASES = ("rollout", "grading", "update", "checkpoint")
PLAIN = ("grpo", "reinforce", "ppo", "trpo", "rejection_sampling", "sft", "dpo", "reward_model")
STEPS = {"grape": 16, "sft": 60, "dpo": 60, "reward_model": 60}
TRIES = 3
"""A small model may finish before the blow falls; then the same moment is tried on another job."""


class Killed:
    """Jobs of one stack that are killed and compared."""

    def __init__(self, stack, api, judge):
        self.stack, self.api, self.judge = stack, api, judge
        self.bench = Bench(api, stack)
        judge.answer = self._answer
        judged = self.bench.judged(self.bench.judge(judge, concurrency=16, cache=False))
        has = {"key": "has", "weight": 2, "grader": {"type": "contains", "values": ["{{ prompt.reference }}"]}}
        self._rubrics = {True: self.bench.rubric(has, judged), False: self.bench.rubric()}
        self._rows = {name: getattr(self.bench, name)() for name in ("prompts", "preferences", "demonstrations")}
        self._whole = {}

    async def _answer(self, question):
        """By the text alone, after a moment."""
        await asyncio.sleep(0.03)
        return verdict(question, len(question.answer) % 3 != 0, 0.3 + 0.1 * (len(question.answer) % 5))

    def submit(self, kind):
        """The job of an algorithm, always the same; `grape` has a judge."""
        data = {"sft": "demonstrations", "dpo": "preferences", "reward_model": "preferences"}.get(kind, "prompts")
        options = {data: self._rows[data], "training": {"steps": STEPS.get(kind, 20), "learning_rate": 0.003}}
        if kind == "trpo":
            options["training"]["learning_rate"] = None
        if data == "prompts":
            options["rubric"] = self._rubrics[kind == "grape"]
            options["rollout"] = {"max_completion_tokens": 16}
        return self.bench.submit(kind, checkpoints={"every_steps": 3, "keep": 2}, **options)

    def undisturbed(self, kind):
        """sha256 of the weights of a job to which nothing happens."""
        if kind not in self._whole:
            self._whole[kind] = self.bench.weights(self.bench.finish(self.submit(kind)))
        return self._whole[kind]

    def killed(self, kind, seed, phase):
        """(job, how it was killed) of a job whose child was killed and that was taken up again."""
        for again in range(TRIES):
            chance = random.Random(f"{kind} {phase} {seed} {again}")
            job_id = self.submit(kind)
            after = self._kill(job_id, phase, chance.randint(1, STEPS.get(kind, 20) // 2), chance)
            job = self.bench.finish(job_id)
            if job["attempt"] == 2:
                return job, f"{phase}, {after}"
        raise AssertionError(f"{kind}, seed {seed}: {TRIES} jobs ended before their child could be killed in {phase}")

    def _kill(self, job_id, phase, step, chance):
        """Wait for the moment, and strike."""
        self.bench.until_step(job_id, step)
        most = {"rollout": 0.08, "grading": 0.0, "update": 0.05, "checkpoint": 0.02}[phase]
        if phase in ("grading", "update"):
            self._until(lambda: self.judge.in_flight)
        if phase == "update":
            self._until(lambda: not self.judge.in_flight)
        if phase == "checkpoint":
            jobs = [place for place in (self.stack.folder / "artifacts", self.stack.folder / "cache") if place.exists()]
            self._until(lambda: any(next(place.glob(f"projects/*/jobs/{job_id}/*/*.tmp"), None) for place in jobs))
        late = chance.uniform(0, most)
        time.sleep(late)
        for child in self.stack.pids("child"):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        return f"{late * 1000:.0f} ms into it, after step {step}"

    @staticmethod
    def _until(condition, timeout_s=3.0):
        """Until it is so, or for so long: a job that is through by then is tried again."""
        deadline = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.001)

    def differ(self, kind, seed, phase):
        """Kill one and compare; (null or what is wrong, how it was killed)."""
        job, how = self.killed(kind, seed, phase)
        weights, whole = self.bench.weights(job), self.undisturbed(kind)
        wrong = None if weights == whole else f"weights {weights} instead of {whole}"
        events = self.bench.events(job["id"])
        if [event["seq"] for event in events] != list(range(1, len(events) + 1)):
            wrong = f"events {[event['seq'] for event in events]}"
        return wrong, how


def phase_of(kind, seed):
    """Which phase a seed strikes: in turn for those that have a judge, else by the clock or at a checkpoint."""
    return PHASES[seed % 4] if kind == "grape" else ("rollout", "checkpoint")[seed % 2]


def main():
    """20 seeds of `grape` and 3 of every other algorithm, when run whole; 1 if bytes differ."""
    parser = argparse.ArgumentParser(prog="python -m tests.nemesis.resume", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="of grape")
    parser.add_argument("--others", type=int, default=3, help="of each other algorithm")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--remote", action="store_true", help="checkpoints go to a server that speaks S3's protocol")
    asked = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    place = Path(tempfile.mkdtemp(prefix="grape-resume-"))
    place.chmod(0o755)
    failed = 0
    if asked.remote:
        from tests.support.object_store import ObjectStore

        objects = ObjectStore()
    else:
        objects = nullcontext()
    try:
        with objects as there, FakeJudge() as judge:
            settings = {"GRAPE_JOBS__WAITING_CHILDREN": "2", **(there.settings if there else {})}
            stack = RunningStack(place / "stack", settings).start()
            try:
                with stack.client() as api:
                    jobs = Killed(stack, api, judge)
                    for kind in ("grape", *PLAIN):
                        for seed in range(
                            asked.first_seed, asked.first_seed + (asked.seeds if kind == "grape" else asked.others)
                        ):
                            wrong, how = jobs.differ(kind, seed, phase_of(kind, seed))
                            failed += wrong is not None
                            print(f"{kind} seed {seed}: {wrong or 'same bytes'} (killed in {how})", flush=True)
            finally:
                stack.stop()
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
