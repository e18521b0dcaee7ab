"""A request for drafts outlives its workers: whoever takes it up asks nothing twice, and comes to the same drafts."""

import asyncio
import json

import pytest

from service.config import DatabaseSettings, JobsSettings
from service.db.engine import AsyncDatabase
from service.db.queries import rubrics as rubric_queries
from service.db.tables import CellBatch, CellRequest, Grading
from service.domain.drafting import DraftSpec
from service.rubrics.drafts import create_drafts
from tests.support.stored import CALLER, JUDGE, judged, make_project, make_rubric
from workers.drafting.run import Drafting
from workers.runs.grading_claims import GradingClaims

PAIRS = [{"prompt": f"q{k}", "chosen": "because", "rejected": "so"} for k in range(3)]
REPLY = [{"key": "reason", "text": "Gives a reason.", "good_when_met": True}]


class Died(Exception):
    """The worker."""


def request_drafts(url, rubric):
    async def post():
        database = AsyncDatabase(DatabaseSettings(url=url))
        try:
            async with database.session() as session:
                head = await session.scalar(rubric_queries.head("prj_1", rubric))
                version = await session.scalar(rubric_queries.version(rubric, 1))
                spec = DraftSpec.model_validate({"judge": JUDGE, "pairs": PAIRS})
                row = await create_drafts(session, CALLER, head, version, spec)
                await session.commit()
                return row.id
        finally:
            await database.dispose()

    return asyncio.run(post())


def answer_all(database):
    """What a grading worker does: every open batch gets its answers. The number of cells and texts that were asked for."""
    asked = 0
    with database.transaction() as session:
        for batch in session.query(CellBatch).filter(CellBatch.status != "done"):
            for request in session.query(CellRequest).filter(
                CellRequest.batch_id == batch.id, CellRequest.cell.is_(None)
            ):
                asked += 1
                if "questions" in batch.payload:
                    text = batch.payload["questions"][request.completion_index][-1]["content"]
                    nonce = text.rsplit("The nonce: ", 1)[1].strip()
                    reply = json.dumps({"nonce": nonce, "criteria": REPLY})
                    request.cell = {"criterion": "text", "status": "ok", "text": reply}
                else:
                    good = batch.payload["texts"][request.completion_index] == "because"
                    request.cell = {
                        "criterion": request.criterion, "status": "ok", "score": float(good), "grader": "judge", "judge": JUDGE,
                        "revision": 1,
                    }  # fmt: skip
            batch.status = "done"
    return asked


def take_up(database, waits):
    """A worker that dies when it has waited so often."""
    held = GradingClaims(database, JobsSettings(), 30).claim("revise")
    left = iter(range(waits))

    def wait(_):
        if next(left, None) is None:
            raise Died

    Drafting(held, lambda: None, wait, lambda: None).run()


def test_who_takes_it_up_asks_nothing_twice(cluster, database_name, database):
    make_project(database)
    rubric = make_rubric(database, {"criteria": [judged("a")]})
    request = request_drafts(cluster.url("grape_app", database_name), rubric)
    asked = []
    for _ in range(2):  # once while the drafter writes, once while its drafts are checked
        with pytest.raises(Died):
            take_up(database, 0)
        asked.append(answer_all(database))
        with database.transaction() as session:
            session.query(Grading).update({"status": "queued", "worker_id": None, "lease_expires_at": None})
    take_up(database, 0)
    # One question; then, of one draft, three pairs, an empty answer, the prompt and its own text.
    assert asked == [1, 3 * 2 + 2 + 1]
    with database.transaction() as session:
        row = session.get_one(Grading, request)
        (draft,) = row.result["drafts"]
        assert (row.status, draft["key"], draft["recommended"]) == ("succeeded", "reason", True)
        assert (draft["checks"]["agree"], draft["checks"]["disagree"]) == (3, 0)
        assert session.query(CellBatch).count() == 0
