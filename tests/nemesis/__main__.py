"""`python -m tests.nemesis --seeds N`: seeded faults against a running stack, and I1 to I10 over what was recorded."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.nemesis.invariants import check
from tests.nemesis.run import Scene, run_seed, told
from tests.support.judge import FakeJudge
from tests.support.stack import RunningStack


def main():
    """Run the seeds one after another on one stack; 1 if an invariant was violated."""
    parser = argparse.ArgumentParser(prog="python -m tests.nemesis", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60, help="how long each is struck; then the jobs come to rest")
    parser.add_argument(
        "--keep", type=Path, help="a folder for every seed's history; those of violations are kept anyway"
    )
    asked = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    place = Path(tempfile.mkdtemp(prefix="grape-nemesis-"))
    place.chmod(0o755)
    stack = RunningStack(place / "stack", {"GRAPE_JOBS__WAITING_CHILDREN": "2"})
    failed = []
    try:
        with FakeJudge() as judge:
            stack.start()
            scene = Scene(stack, judge)
            for seed in range(asked.first_seed, asked.first_seed + asked.seeds):
                began = time.monotonic()
                history = run_seed(scene, seed, asked.seconds)
                violations = check(history)
                print(
                    f"seed {seed}: {'VIOLATED' if violations else 'ok'}: {told(history, time.monotonic() - began)}",
                    flush=True,
                )
                for said in violations:
                    print(f"seed {seed}: {said}", flush=True)
                if violations:
                    failed.append(seed)
                if violations or asked.keep:
                    kept = asked.keep or Path(tempfile.gettempdir()) / "grape-nemesis-violations"
                    kept.mkdir(parents=True, exist_ok=True)
                    history.save(kept / f"seed-{seed}.json")
                    if violations:
                        shutil.copy(place / "stack.log", kept / f"seed-{seed}.log")
                        print(f"seed {seed}: its history and the stack's log are in {kept}", flush=True)
    finally:
        if stack.process is not None:
            stack.stop()
        shutil.rmtree(place, ignore_errors=True)
    if failed:
        again = f"python -m tests.nemesis --seeds 1 --seconds {asked.seconds:g} --first-seed"
        print(f"violated with seeds {failed}; again: {again} {failed[0]}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
