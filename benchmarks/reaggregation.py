"""`python -m benchmarks.reaggregation`: how long 100,000 stored cells take to be aggregated anew (docs: targets, ≤ 2 s).

Starts a Postgres of its own in a temporary folder, stores a job's completions with their cells, and measures from the request
(`create_grading`, as the API does it) to the last number being readable, by the worker's own code. Prints a Markdown table and,
with `--out`, writes JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import text

from service.config import DatabaseSettings, JobsSettings
from service.db.engine import AsyncDatabase, Database
from service.db.migrate import upgrade
from service.db.tables import Grading
from service.domain.grading import GradingSpec
from service.domain.rubric import RubricContent
from service.gradings.commands import create_grading
from service.local.account import server_account
from service.local.binaries import postgres_folder, reachable
from service.local.postgres import SUPERUSER, Postgres
from service.local.processes import Supervisor
from service.local.stack import free_port
from service.operation import Caller
from workers.gradings.reuse import Regrader
from workers.gradings.rubrics import Rubrics
from workers.runs.grading_claims import GradingClaims

CALLER = Caller("prj_1", "key_1", "gk_1", frozenset({"admin"}))
JOB = "job_1"
RUBRIC = "rub_1"

PEOPLE = """
    INSERT INTO projects (id, name) VALUES ('prj_1', 'p');
    INSERT INTO judges (id, project_id, name, revision, limits) VALUES ('jdg_1', 'prj_1', 'j', 1, '{}');
    INSERT INTO rubrics (id, project_id, name, latest_version) VALUES ('rub_1', 'prj_1', 'r', 2);
    INSERT INTO jobs (id, project_id, name, algorithm, status, spec, resolved, progress_steps)
    VALUES ('job_1', 'prj_1', 'j', 'grape', 'queued', '{}', '{"judges": {}}', 1);
"""
COMPLETIONS = """
    INSERT INTO completions (id, created_at, project_id, job_id, fence, attempt, step, purpose, group_id, group_index, idx,
        prompt, text, token_ids, logprobs, finish_reason, member, coverage, parts, weighting, signal, rubric_id, rubric_version)
    SELECT 'cmp_' || lpad(k::text, 26, '0'), now(), 'prj_1', 'job_1', 1, 1, k / 64, 'train', 'grp_' || k / 8, k / 8 % 8, k % 8,
        jsonb_build_object('id', 'ds_1:' || k / 8, 'messages', jsonb_build_array(jsonb_build_object('role', 'user',
            'content', repeat('prompt ', 20)))), repeat('word ', 60), array_fill(7, ARRAY[64]), array_fill(-0.5, ARRAY[64]),
        'stop', true, 1, '{}', '{}', 'ok', 'rub_1', 1
    FROM generate_series(0, :completions - 1) AS k
"""
CELLS = """
    INSERT INTO cells (completion_id, criterion, created_at, project_id, job_id, critique_id, status, score, confidence,
        confidence_source, reasoning, votes, grader, judge_id, judge_revision, attempts, latency_ms, tokens_in, tokens_out, audit)
    SELECT c.id, 'c' || j, c.created_at, 'prj_1', 'job_1', 'crt_' || c.id || j, 'ok', random(), random(), 'verbal',
        repeat('because ', 25), 1, 'judge', 'jdg_1', 1, 1, 800, 400, 40, false
    FROM completions c, generate_series(0, :criteria - 1) AS j WHERE c.job_id = 'job_1'
"""


@contextmanager
def postgres() -> Iterator[tuple[str, str]]:
    """A migrated database; the address of the application's role and the superuser's."""
    folder = Path(tempfile.mkdtemp(prefix="grape-benchmark-"))
    folder.chmod(0o755)
    account = server_account()
    install = reachable(postgres_folder(), account, folder / "bin")
    passwords = dict.fromkeys((SUPERUSER, "grape_owner", "grape_app"), "secret")
    server = Postgres(install, folder / "postgres", free_port(), account, passwords)
    server.ensure_cluster()
    (folder / "children").mkdir()
    supervisor = Supervisor(folder / "processes.json", folder / "children", folder / "logs", lambda line: None)
    supervisor.start(server.program())
    try:
        server.wait_ready()
        server.ensure_database()
        upgrade(server.url("grape_owner"))
        yield server.url("grape_app"), server.url(SUPERUSER)
    finally:
        supervisor.stop()
        shutil.rmtree(folder, ignore_errors=True)


def content(criteria: int, step: int) -> dict[str, Any]:
    """A version whose weights depend on `step`; what judges are asked stays."""
    grader = {"type": "judge", "judge": "jdg_1"}
    listed = [{"key": f"c{k}", "text": f"is {k}", "weight": 1 + step * k, "grader": grader} for k in range(criteria)]
    return RubricContent.model_validate({"criteria": listed}).model_dump(mode="json")


def fill(owner: Database, completions: int, criteria: int) -> None:
    """A job with its completions and their cells, and a rubric with two versions."""
    with owner.transaction() as session:
        for statement in PEOPLE.split(";\n"):
            if statement.strip():
                session.connection().exec_driver_sql(statement)
        for version, step in ((1, 0), (2, 1)):
            session.execute(
                text(
                    "INSERT INTO rubric_versions (rubric_id, version, project_id, content, hash, author) "
                    "VALUES ('rub_1', :version, 'prj_1', CAST(:content AS jsonb), :hash, 'a')"
                ),
                {"version": version, "content": json.dumps(content(criteria, step)), "hash": str(version)},
            )
        session.execute(text(COMPLETIONS), {"completions": completions})
        session.execute(text(CELLS), {"criteria": criteria})
    with owner.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))


async def request(url: str) -> str:
    """POST /v1/gradings without the HTTP."""
    database = AsyncDatabase(DatabaseSettings(url=url))
    body = {"job": JOB, "reuse_cells": True, "rubric": {"id": RUBRIC, "version": 2}}
    try:
        async with database.session() as session:
            grading = await create_grading(session, CALLER, GradingSpec.model_validate(body))
            await session.commit()
            return grading.id
    finally:
        await database.dispose()


def once(database: Database, url: str) -> float:
    """Seconds from the request to the end."""
    claims = GradingClaims(database, JobsSettings(), lease_s=60)
    started = time.perf_counter()
    grading_id = asyncio.run(request(url))
    held = claims.claim("reuse")
    assert held is not None
    regrader = Regrader(held, Rubrics(held), lambda: None)
    regrader.run()
    held.succeed(regrader.summary.as_json())
    taken = time.perf_counter() - started
    with database.transaction() as session:
        done = session.get_one(Grading, grading_id)
        assert (done.status, done.failed) == ("succeeded", 0), (done.status, done.failed)
    return taken


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reaggregation", description=__doc__)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--criteria", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write JSON here")
    options = parser.parse_args()
    completions = options.cells // options.criteria
    with postgres() as (url, owner_url):
        owner, database = Database(DatabaseSettings(url=owner_url)), Database(DatabaseSettings(url=url))
        fill(owner, completions, options.criteria)
        once(database, url)  # warm-up
        seconds = [once(database, url) for _ in range(options.repeats)]
        owner.dispose()
        database.dispose()
    median = statistics.median(seconds)
    print("| cells | completions | criteria | median s | min s | max s | cells/s |\n|---|---|---|---|---|---|---|")
    numbers = f"{median:.2f} | {min(seconds):.2f} | {max(seconds):.2f} | {options.cells / median:,.0f}"
    print(f"| {options.cells:,} | {completions:,} | {options.criteria} | {numbers} |")
    if options.out:
        result = {**vars(options), "out": str(options.out), "seconds": seconds, "python": platform.python_version()}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
