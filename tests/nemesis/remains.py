"""What is left when everything has come to rest: rows of the database, and files of listed checkpoints."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psycopg
from psycopg.rows import dict_row

from service.storage import ArtifactStore
from tests.nemesis.history import CheckpointFound

JOBS = """
SELECT id, status, status_reason, error, result, fence, attempt, failures, event_seq, progress_step, metadata, finished_at
FROM jobs WHERE metadata->>'nemesis' = %s"""
EVENTS = "SELECT job_id, id, seq, type, attempt, data FROM job_events WHERE job_id = ANY(%s) ORDER BY job_id, seq"
ATTEMPTS = """
SELECT job_id, fence, attempt, worker_id, started_at, ended_at, end_reason, resumed_from_step
FROM attempts WHERE job_id = ANY(%s) ORDER BY job_id, fence"""
WRITES = """
SELECT job_id, created_at, fence, name AS what FROM job_metrics WHERE job_id = ANY(%(ids)s)
UNION ALL SELECT job_id, created_at, fence, 'checkpoint' FROM checkpoints WHERE job_id = ANY(%(ids)s)
ORDER BY job_id, created_at, fence"""
CHECKPOINTS = (
    "SELECT id, job_id, step, fence, location, files FROM checkpoints WHERE job_id = ANY(%s) ORDER BY job_id, step"
)

LOADS = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
for folder in sys.argv[1:]:
    try:
        AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        print(folder, repr(error)[:300].replace(chr(10), " "), sep="\\t")
"""
"""Says which folders do not load with plain transformers, in a process of its own: torch's memory goes when it ends."""


def collect(history, database_url, artifacts):
    """Fill in rows and checkpoints; the jobs are those whose metadata names the history's run."""
    plain = database_url.replace("postgresql+psycopg://", "postgresql://")
    with psycopg.connect(plain, row_factory=dict_row) as connection:
        for row in connection.execute(JOBS, [run_name(history.seed)]).fetchall():
            finished = row.pop("finished_at")
            row |= {"finished_at": _told(finished), "finished": finished.timestamp() if finished else None}
            history.jobs[row.pop("id")] = row
        ids = list(history.jobs)
        for row in connection.execute(EVENTS, [ids]).fetchall():
            history.events.setdefault(row.pop("job_id"), []).append(row)
        for row in connection.execute(ATTEMPTS, [ids]).fetchall():
            for name in ("started_at", "ended_at"):
                row[name] = row[name].timestamp() if row[name] else None
            history.attempts.setdefault(row.pop("job_id"), []).append(row)
        for row in connection.execute(WRITES, {"ids": ids}).fetchall():
            row["at"] = row.pop("created_at").timestamp()
            history.writes.setdefault(row.pop("job_id"), []).append(row)
        listed = connection.execute(CHECKPOINTS, [ids]).fetchall()
    store = ArtifactStore(artifacts)
    folders = {row["id"]: store.path(row["location"]) for row in listed}
    problems = _problems(folders.values())
    for row in listed:
        folder = folders[row["id"]]
        history.checkpoints.append(
            CheckpointFound(
                row["id"], row["job_id"], row["step"], row["fence"],
                {file["path"]: file["sha256"] for file in row["files"]},
                {path.relative_to(folder).as_posix(): _sha256(path) for path in folder.rglob("*") if path.is_file()},
                problems.get(str(folder)),
            )
        )  # fmt: skip


def run_name(seed):
    """What the metadata of a run's jobs say."""
    return f"seed-{seed}"


def _told(moment: datetime | None):
    """As the API writes a time."""
    return moment and moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _sha256(path: Path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _problems(folders):
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LOADS, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    if done.returncode:
        raise AssertionError(f"checkpoints could not be looked at:\n{done.stderr[-2000:]}")
    return dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
