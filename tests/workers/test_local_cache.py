"""Cells of judges that are registered models: known before a model is loaded, remembered unless they failed."""

import shutil

import pytest
from pydantic import SecretStr
from sqlalchemy import func, select, update

from service.config import BrokerSettings, DatabaseSettings, GradingSettings, JobsSettings, Settings
from service.db.engine import Database
from service.db.tables import CachedCell, CellBatch, Grading, Judge, JudgeSpending, Model
from service.domain.judge import JudgeConfig
from service.domain.places import GRADING_LOCAL
from service.domain.rubric import Criterion
from service.model_files import hash_model_folder
from service.queue import Bell
from tests.support.cells import PROJECT, SECRET, ask, cells_of, finish, judged, make_judge, make_project
from tests.support.judge_model import make_judge_model
from tests.workers.test_cell_cache import CRITERION, PROMPT
from workers.graders.judge.cache_key import CellKeys
from workers.local_grading import LocalGradingEngine
from workers.runs.cells import CellWork


def test_the_key_has_the_files_and_the_precision_in_place_of_the_models_id():
    made = Criterion.model_validate({**CRITERION, "grader": {"type": "judge", "judge": "jdg_1"}})

    def key(model="mdl_1", weights="abc, cpu, float32", **changes):
        config = JudgeConfig.model_validate({"model": model, "prompt": {"version": 2}, **changes})
        return CellKeys(config, "g", weights).of(made, [made], PROMPT, "t", "text")

    assert key("mdl_2") == key()
    assert (
        len({key(), key(weights="abd, cpu, float32"), key(weights="abc, cuda, bfloat16"), key(prompt={"version": 1})})
        == 4
    )


@pytest.fixture
def folder(tmp_path):
    return make_judge_model(tmp_path / "judge")


@pytest.fixture
def grade(cluster, database, database_name, folder, tmp_path):
    """Grade texts with an engine of this process; the cells."""
    make_project(database)
    sha256, files = hash_model_folder(folder)

    def register(model_id):
        with database.transaction() as session:
            row = {
                "status": "ready",
                "location": str(folder),
                "sha256": sha256,
                "name": "m",
                "kind": "policy",
            }
            listed = [file.model_dump() for file in files]
            session.add(Model(id=model_id, project_id=PROJECT, source={"path": str(folder)}, files=listed, **row))

    def run(judge_id, model_id, texts, key="nice", **payload):
        grading = ask(database, [judged(judge_id, key)], texts, batch=len(texts), **payload)
        with database.transaction() as session:
            session.execute(update(CellBatch).where(CellBatch.grading_id == grading).values(queue=GRADING_LOCAL))
            resolved = session.get_one(Grading, grading).resolved
            local = {**resolved, "local_judges": {judge_id: model_id}, "models": {}}
            session.execute(update(Grading).where(Grading.id == grading).values(resolved=local))
        url = cluster.url("grape_app", database_name)
        settings = Settings(
            database=DatabaseSettings(url=url), broker=BrokerSettings(url="redis://127.0.0.1:9/0"), secret_key=SecretStr(SECRET),
            jobs=JobsSettings(poll_s=0.1), grading=GradingSettings(lease_s=10, local_device="cpu"),
        )  # fmt: skip
        own = Database(settings.database)
        work = CellWork(own, Bell(settings.broker), settings.grading.lease_s, queue=GRADING_LOCAL)
        engine = LocalGradingEngine(work, settings, tmp_path)
        engine.start()
        try:
            finish(database, grading)
        finally:
            engine.stop()
            own.dispose()
        return cells_of(database, grading)

    run.register = register
    return run


def test_known_cells_need_no_model_and_failures_are_asked_again(database, grade, folder, tmp_path):
    def remembered():
        with database.transaction() as session:
            return session.scalar(select(func.count()).select_from(CachedCell))

    judges = []
    for model_id in ("mdl_1", "mdl_2"):
        grade.register(model_id)
        judges.append(make_judge(database, "http://unused", config={"endpoint": None, "model": model_id}))
    first = grade(judges[0], "mdl_1", ["a", "b"])
    assert [(cell["status"], cell["score"], cell["cached"]) for cell in first] == [("ok", 1.0, False)] * 2
    assert remembered() == 2
    shutil.move(folder, tmp_path / "away")
    # the same files under another id are the same judge; nothing is loaded, for there is nothing to load
    again = grade(judges[1], "mdl_2", ["b", "a"])
    assert [(cell["status"], cell["score"], cell["cached"], cell["judge"]) for cell in again] == [
        ("ok", 1.0, True, judges[1])
    ] * 2
    # what is not known fails, is told apart from what is, and is not remembered
    mixed = grade(judges[0], "mdl_1", ["a", "c"])
    assert [(cell["status"], cell["cached"]) for cell in mixed] == [("ok", True), ("infra_error", False)]
    assert "is gone" in mixed[1]["reason"]
    assert {cell["status"] for cell in grade(judges[0], "mdl_1", ["a"], fresh=True)} == {"infra_error"}
    assert remembered() == 2
    shutil.move(tmp_path / "away", folder)
    assert [(cell["status"], cell["cached"]) for cell in grade(judges[0], "mdl_1", ["c"])] == [("ok", False)]
    assert remembered() == 3
    with database.transaction() as session:
        head = session.get_one(Judge, judges[0])
        head.limits = {**head.limits, "cache": False}
    assert [cell["cached"] for cell in grade(judges[0], "mdl_1", ["a", "new"])] == [False, False]
    assert remembered() == 3


def test_plain_questions_are_answered_counted_and_stored_in_their_order(database, grade):
    grade.register("mdl_1")
    judge = make_judge(database, "http://unused", config={"endpoint": None, "model": "mdl_1"})
    digits = [f"{k:016x}" for k in (5, 77)]
    questions = [[{"role": "user", "content": text}] for text in digits]
    told = grade(judge, "mdl_1", ["", ""], key="text", questions=questions, judge=judge)
    assert [(answer["status"], answer["text"][len('{"nonce": "') :][:16]) for answer in told] == [
        ("ok", d) for d in digits
    ]
    with database.transaction() as session:
        spent = session.scalar(select(func.sum(JudgeSpending.calls)).where(JudgeSpending.owner_id == judge))
    assert spent == 2
