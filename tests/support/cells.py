"""Batches of judged cells put straight into the database, and grading workers as processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pydantic import SecretStr
from sqlalchemy import func, insert, select

from service.config import BrokerSettings, DatabaseSettings, EgressSettings, GradingSettings, JobsSettings, Settings
from service.db.engine import Database
from service.db.tables import CellBatch, CellRequest, Grading, Judge, JudgeRevision, Project
from service.domain.ids import new_id
from service.domain.judge import JudgeConfig, JudgeLimits
from service.domain.rubric import RubricContent
from service.queue import Bell
from service.security import Vault
from tests.support.stack import wait_for
from workers.grading import GradingEngine
from workers.runs.cells import CellWork

SECRET = "5" * 64
PROJECT = "prj_1"


def make_project(database, project=PROJECT):
    """The project that everything here belongs to, or another one."""
    with database.transaction() as session:
        session.add(Project(id=project, name="p"))


def make_judge(database, base_url, *, config=None, judge_id=None, **limits):
    """A judge, revision 1; its id."""
    judge_id = judge_id or new_id("judge")
    made = JudgeConfig.model_validate({"endpoint": {"base_url": base_url, "model": "m"}, **(config or {})})
    kept = JudgeLimits.model_validate({"timeout_s": 10, **limits})
    with database.transaction() as session:
        session.add(
            Judge(
                id=judge_id, project_id=PROJECT, name="fake", revision=1, head_revision=1, limits=kept.model_dump(mode="json"),
            )
        )  # fmt: skip
        session.flush()
        session.add(
            JudgeRevision(
                judge_id=judge_id, revision=1, project_id=PROJECT, config=made.model_dump(mode="json"), fingerprint=made.fingerprint,
            )
        )  # fmt: skip
    return judge_id


def judged(judge_id, key="nice", text="is nice", **grader):
    """A criterion that the judge grades."""
    return {"key": key, "weight": 1, "text": text, "grader": {"type": "judge", "judge": judge_id, **grader}}


def ask(database, criteria, texts, *, prompts=None, guidelines="", batch=1, project=PROJECT, limits=None, **payload):
    """A running grading that asks for every criterion on every text, `batch` texts to a batch; its id."""
    content = RubricContent.model_validate({"guidelines": guidelines, "criteria": criteria})
    judges = dict.fromkeys(content.judge_ids(), 1)
    grading = new_id("grading")
    rubric = {"id": "rub_1", "version": 1, "content": content.model_dump(mode="json")}
    resolved = {"rubric": rubric, "judges": judges, "limits": limits or {}}
    with database.transaction() as session:
        session.add(
            Grading(
                id=grading, project_id=project, purpose="grading", status="running", source={}, resolved=resolved, reuse_cells=False,
                expanded=0, planned=True, done=0, failed=0, fence=1, failures=0,
            )
        )  # fmt: skip
        session.flush()
        for start in range(0, len(texts), batch):
            part = texts[start : start + batch]
            prompt = prompts[start] if prompts else {"id": "p", "messages": [{"role": "user", "content": "a question"}]}
            row = CellBatch(
                id=new_id("batch"), project_id=project, grading_id=grading, key=f"{start:06d}", status="queued", fence=0, priority=0,
                payload={"rubric": "rubric", "prompt": prompt, "texts": part, **payload},
            )  # fmt: skip
            session.add(row)
            session.flush()
            session.execute(
                insert(CellRequest),
                [
                    {"batch_id": row.id, "completion_index": i, "criterion": c.key, "project_id": project}
                    for i in range(len(part))
                    for c in content.criteria
                ],
            )
    return grading


def progress(database, grading):
    """How many batches are done, and how many cells have an answer."""
    with database.transaction() as session:
        mine = CellBatch.grading_id == grading
        done = session.scalar(select(func.count()).where(mine, CellBatch.status == "done"))
        cells = select(func.count()).select_from(CellRequest).join(CellBatch, CellBatch.id == CellRequest.batch_id)
        return done, session.scalar(cells.where(mine, CellRequest.cell.is_not(None)))


def finish(database, grading, timeout_s=60):
    """Wait until every batch of a grading is done; its cells."""
    with database.transaction() as session:
        batches = session.scalar(select(func.count()).where(CellBatch.grading_id == grading))
    wait_for(lambda: progress(database, grading)[0] == batches, timeout_s, "every batch is done")
    return cells_of(database, grading)


def cells_of(database, grading):
    """The answered cells, in order."""
    with database.transaction() as session:
        statement = (
            select(CellRequest.cell)
            .join(CellBatch, CellBatch.id == CellRequest.batch_id)
            .where(CellBatch.grading_id == grading, CellRequest.cell.is_not(None))
            .order_by(CellBatch.key, CellRequest.completion_index, CellRequest.criterion)
        )
        return list(session.scalars(statement))


@contextlib.contextmanager
def engine(url, **settings):
    """A grading engine in a thread of this process."""
    made = Settings(
        database=DatabaseSettings(url=url),
        broker=BrokerSettings(url="redis://127.0.0.1:9/0"),
        egress=EgressSettings(allow=["loopback"]),
        jobs=JobsSettings(poll_s=0.1),
        grading=GradingSettings(lease_s=3, **settings),
        secret_key=SecretStr(SECRET),
    )
    database = Database(made.database)
    work = CellWork(database, Bell(made.broker), made.grading.lease_s)
    running = GradingEngine(work, made, Vault(SECRET))
    running.start()
    try:
        yield running
    finally:
        running.stop()
        database.dispose()


class GradingProcess:
    """A grading engine in a process of its own, as a worker runs it."""

    def __init__(self, url, **settings):
        env = {
            **os.environ, "GRAPE_DATABASE__URL": url, "GRAPE_BROKER__URL": "redis://127.0.0.1:9/0",
            "GRAPE_SECRET_KEY": SECRET, "GRAPE_EGRESS__ALLOW": "loopback", "GRAPE_GRADING__LEASE_S": "2",
            "GRAPE_JOBS__POLL_S": "0.2", "PYTHONUNBUFFERED": "1", **settings,
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.cells"],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        assert json.loads(self.process.stdout.readline()) == "ready"

    def signal(self, sig):
        """Send it a signal."""
        self.process.send_signal(sig)

    def kill(self):
        """Kill it and wait for its end."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self):
        """Stop it in order: its standard input ends."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(20)


def main():
    """Run an engine until standard input ends."""
    settings = Settings()
    database = Database(settings.database)
    work = CellWork(database, Bell(settings.broker), settings.grading.lease_s)
    running = GradingEngine(work, settings, Vault(settings.require_secret_key()))
    running.start()
    time.sleep(0.1)
    print(json.dumps("ready"), flush=True)
    sys.stdin.read()
    running.stop()


if __name__ == "__main__":
    main()
