"""Stored completions with cells, as a job has left them, in a database of the tests."""

import asyncio
import random
from datetime import UTC, datetime

from service.completion import CompletionOut
from service.config import DatabaseSettings, JobsSettings
from service.db.engine import AsyncDatabase
from service.db.queries import completions as queries
from service.db.queries import jobs as job_queries
from service.db.tables import Completion, Grading, Judge, JudgeRevision, Project, Rubric, RubricVersion
from service.domain.base import canonical_json
from service.domain.grade import Cell
from service.domain.grading import GradingSpec
from service.domain.ids import new_id
from service.domain.rubric import RubricContent
from service.gradings.commands import create_grading
from service.operation import Caller
from workers.gradings.reuse import Regrader
from workers.gradings.rubrics import Rubrics
from workers.runs.copying import copy_rows
from workers.runs.grading_claims import GradingClaims
from workers.runs.writer import cell_row

JUDGE = "jdg_1"
CALLER = Caller("prj_1", "key_1", "gk_1", frozenset({"admin"}))


def judged(key, **changes):
    return {"key": key, "weight": 1, "text": f"is {key}", "grader": {"type": "judge", "judge": JUDGE}, **changes}


def make_project(database):
    with database.transaction() as session:
        session.add(Project(id="prj_1", name="p"))
        session.flush()
        session.add(Judge(id=JUDGE, project_id="prj_1", name="j", revision=1, head_revision=1, limits={}))
        session.flush()
        session.add(JudgeRevision(judge_id=JUDGE, revision=1, project_id="prj_1", config={}, fingerprint="f"))


def make_rubric(database, *contents):
    """A rubric with these versions; its id."""
    rubric = new_id("rubric")
    with database.transaction() as session:
        head = {"project_id": "prj_1", "name": "r", "description": "", "head_revision": 1}
        session.add(Rubric(id=rubric, latest_version=len(contents), **head))
        session.flush()
        for number, content in enumerate(contents, 1):
            parsed = RubricContent.model_validate(content)
            session.add(
                RubricVersion(
                    rubric_id=rubric, version=number, project_id="prj_1", content=parsed.model_dump(mode="json"),
                    hash=parsed.hash, message="", author="a",
                )
            )  # fmt: skip
    return rubric


def make_job(database, rubric, groups, group_size, cell_of, version=1, prompt=None, backwards=False):
    """A job whose completions have the cells `cell_of(completion number)` gives; the job's id and those of the completions."""
    spec = {
        "id": new_id("job"), "project_id": "prj_1", "name": "j", "algorithm": "grape", "spec": {}, "metadata": {}, "priority": 0,
        "resolved": {"judges": {JUDGE: 1}}, "processes": 1, "progress_steps": 1,
    }  # fmt: skip
    now = datetime.now(UTC)
    completions, cells = [], []
    for k in range(groups * group_size):
        group, index = divmod(k, group_size)
        completion = new_id("completion")
        completions.append(
            {
                "id": completion, "created_at": now, "project_id": "prj_1", "job_id": spec["id"], "fence": 1, "attempt": 1,
                "step": 1 + group // 8, "purpose": "train", "group_id": f"grp_{spec['id'][4:]}_{group}", "group_index": group % 8,
                "idx": index, "prompt": {"id": f"ds_1:{group}", "messages": [{"role": "user", "content": f"p{group}"}], **(prompt or {})},
                "text": f"text {k}", "token_ids": [1, 2], "logprobs": [-0.5, -1.0], "finish_reason": "stop", "member": True,
                "coverage": 1.0, "reward": 0.0, "plain_reward": 0.0, "unscaled_advantage": 0.0, "scale_factor": 0.0,
                "advantage": 0.0, "parts": {}, "weighting": {}, "signal": "ok", "rubric_id": rubric, "rubric_version": version,
            }
        )  # fmt: skip
        owned = {"project_id": "prj_1", "job_id": spec["id"]}
        cells += [{**cell_row(cell, completion, now), **owned} for cell in cell_of(k)]
    with database.transaction() as session:
        session.execute(job_queries.submit(spec))
        order = -1 if backwards else 1
        copy_rows(session, "completions", completions[::order])
        copy_rows(session, "cells", cells[::order])
    return spec["id"], [row["id"] for row in completions]


def random_cells(keys, seed=0, null_share=0.1):
    """Judged cells of any score and confidence, some null."""

    def cell_of(k):
        rng = random.Random(seed * 1_000_003 + k)
        found = []
        for key in keys:
            common = {"criterion": key, "grader": "judge", "judge": JUDGE, "revision": 1}
            if rng.random() < null_share:
                status = rng.choice(["parse_error", "timeout"])
                found.append(Cell(status=status, reason="said nothing", **common))
            else:
                confidence = rng.choice([None, rng.random()])
                found.append(
                    Cell(status="ok", score=rng.random(), confidence=confidence, reasoning=f"about {k}", **common)
                )
        return found

    return cell_of


def ask(url, **body):
    """POST a grading, as the API does; its id."""

    async def post():
        database = AsyncDatabase(DatabaseSettings(url=url))
        try:
            async with database.session() as session:
                grading = await create_grading(session, CALLER, GradingSpec.model_validate(body))
                await session.commit()
        finally:
            await database.dispose()
        return grading.id

    return asyncio.run(post())


def claims_of(database, lease_s=30):
    return GradingClaims(database, JobsSettings(), lease_s)


def regrade(database, **options):
    """Do the next grading that reuses cells, as a worker does."""
    held = options.pop("held", None) or claims_of(database).claim("reuse")
    regrader = Regrader(held, Rubrics(held), options.pop("check", lambda: None), **options)
    regrader.run()
    held.succeed(regrader.summary.as_json())


def grading_of(database, grading_id):
    with database.transaction() as session:
        return session.get_one(Grading, grading_id)


def shown(database, grading_id):
    """The grading's completions as the API shows them, in input order."""
    with database.transaction() as session:
        rows = list(session.scalars(queries.of_grading(grading_id).order_by(Completion.position)))
        cells = list(session.scalars(queries.cells(rows)))
    return [
        CompletionOut.of(row, [c for c in cells if c.completion_id == (row.cells_of or row.id)]).model_dump(mode="json")
        for row in rows
    ]


def numbers(database, grading_id):
    """Every number of a grading, as canonical JSON: what has to be the same everywhere."""
    names = ("index", "member", "coverage", "reward", "plain_reward", "unscaled_advantage", "scale_factor", "advantage",
             "parts", "weighting", "signal", "text")  # fmt: skip
    rows = [{name: row[name] for name in names} for row in shown(database, grading_id)]
    return canonical_json([rows, grading_of(database, grading_id).summary])
