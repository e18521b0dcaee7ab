"""Rows of the crash matrix that are races or lost commits in Postgres itself: a real server, no stack."""

import asyncio
import random
import threading
from collections import Counter

import httpx
import pytest
from sqlalchemy import select

from service.app import create_app
from service.config import DatabaseSettings, JobsSettings, LimitsSettings, Settings
from service.db.engine import Database
from service.db.queries import jobs as queries
from service.db.tables import Outbox, Project
from service.domain.job_state import TERMINAL
from service.projects.commands import admin_key
from service.queue import Outbox as Sender
from service.security import Vault
from tests.db.test_transitions import events, project, row, submit
from tests.support.servers import OwnPostgres
from workers.runs.claims import Claims
from workers.runs.held import HeldJob, StaleFence

__all__ = ["project"]
pytestmark = [pytest.mark.crash, pytest.mark.heavy]

SECRET = "5" * 64


def claims_of(database, **settings):
    return Claims(database, JobsSettings(**settings), LimitsSettings())


def together(*work):
    """Start all at one moment, and wait for all."""
    barrier = threading.Barrier(len(work))

    def run(one):
        barrier.wait()
        one()

    threads = [threading.Thread(target=run, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_row_14_two_reapers_are_as_one(database, project):
    """Before the reaping was in the lock's own transaction, a second reaper counted the same death again and ended the job."""
    reapers = [claims_of(database, lease_s=0.02, retry_backoff_s=60, max_attempts=2) for _ in range(6)]
    for reaper in reapers:
        reaper.look_after()
    for _ in range(25):
        job_id = submit(database, project)
        assert reapers[0].claim().job_id == job_id
        threading.Event().wait(0.05)
        together(*[reaper.look_after for reaper in reapers])
        for reaper in reapers:
            reaper.look_after()
        after = row(database, job_id)
        assert (after.status, after.failures) == ("retry_wait", 1)
        assert [e.type for e in events(database, job_id)] == ["job.queued", "job.starting", "job.retry_wait"]
        with database.transaction() as session:
            session.execute(queries.transition("cancel", job_id))


def test_row_14_two_dispatchers_send_each_message_once(database, project):
    jobs = [submit(database, project) for _ in range(60)]
    sent, lock = [], threading.Lock()

    class Producer:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    class Broker:
        """Only counts: who sends what is decided by Postgres."""

        class producer_pool:
            acquire = staticmethod(lambda **_: Producer())

        @staticmethod
        def send_task(name, args, **_):
            with lock:
                sent.extend(args)

    together(*[Sender(database, Broker).flush for _ in range(6)])
    assert Counter(sent) == Counter(jobs)


def test_row_14_messages_that_a_broker_refused_are_due_again(database, project):
    submit(database, project)

    class Broker:
        class producer_pool:
            @staticmethod
            def acquire(**_):
                raise OSError("away")

    assert Sender(database, Broker).flush() == 0
    with database.transaction() as session:
        (message,) = session.scalars(select(Outbox)).all()
        wait_s = (message.send_at - session.scalar(select(queries.now()))).total_seconds()
    assert wait_s <= 1.0


def test_row_13_a_fence_is_never_given_out_twice_though_commits_are_lost(open_folder):
    """An older copy of the data folder is put back: the claim is not in it. Its holder and the next one share no fence."""
    postgres = OwnPostgres(open_folder / "restored").start()
    database = Database(DatabaseSettings(url=postgres.server.url("grape_app")))
    try:
        with database.transaction() as session:
            session.add(Project(id="prj_1", name="p"))
        job_id = submit(database, "prj_1")
        postgres.copy(open_folder / "older")
        database.dispose()
        first = claims_of(database).claim()
        HeldJob(database, job_id, first.fence).event("note", {})
        postgres.put_back(open_folder / "older")
        database.dispose()
        assert row(database, job_id).status == "queued"  # the claim is lost
        zombie = HeldJob(database, job_id, first.fence)
        for again in (False, True):
            if again:
                second = claims_of(database).claim()
                assert second.job_id == job_id
                assert second.fence > first.fence
            for write in (
                lambda: zombie.event("note", {}),
                lambda: zombie.records(step=1, metrics=[], completions=[], cells=[]),
                lambda: zombie.register_checkpoint(
                    {"step": 1, "kind": "full", "location": "x", "files": [], "metrics": {}}
                ),
            ):
                with pytest.raises(StaleFence):
                    write()
            assert not claims_of(database).renew(first)
        HeldJob(database, job_id, second.fence).event("note", {})
        assert [e.type for e in events(database, job_id)] == ["job.queued", "job.starting", "note"]
    finally:
        database.dispose()
        postgres.stop()


def test_row_10_an_attempt_that_was_reaped_ends_nothing(database, project):
    """Nobody has claimed the job since, so the fence is still its own; it is no longer the holder all the same."""
    job_id = submit(database, project)
    claims = claims_of(database, lease_s=0.02, retry_backoff_s=60)
    claim = claims.claim()
    for _ in range(2):
        threading.Event().wait(0.05)
        claims.look_after()
    assert row(database, job_id).status == "retry_wait"
    assert not claims.fail(job_id, claim.fence, claim.failures, "data_invalid", "said too late")
    assert row(database, job_id).status == "retry_wait"


def test_row_20_cancel_races_success_over_http(cluster, database, database_name, project):
    """Over HTTP: one terminal state, and what cancel answered is what everybody reads ever after."""
    vault = Vault(SECRET)
    with database.transaction() as session:
        key = admin_key(session, vault, "race")
    url = cluster.url("grape_app", database_name)
    app = create_app(Settings(database=DatabaseSettings(url=url), secret_key=SECRET))
    claims = claims_of(database)
    rng = random.Random(20)
    outcomes = Counter()
    resolved = {"policy": {"model": "mdl_1", "sha256": None}, "data": {}, "judges": {}}
    spec = {
        "policy": {"model": "mdl_1"}, "algorithm": {"type": "sft"}, "adapter": None, "rollout": {}, "training": {}, "checkpoints": {},
        "resources": {},
    }  # fmt: skip

    async def race(client):
        job_id = submit(database, project, spec=spec, resolved=resolved)
        claim = claims.claim()
        for event in ("run", "finalize"):
            claims.move(event, claim)

        async def cancel():
            await asyncio.sleep(rng.random() * 0.012)
            return await client.post(f"/v1/jobs/{job_id}/cancel")

        async def succeed():
            await asyncio.sleep(rng.random() * 0.012)
            return await asyncio.to_thread(claims.succeed, claim, None, None)

        answer, succeeded = await asyncio.gather(cancel(), succeed())
        assert answer.status_code == 200
        said = answer.json()
        read = (await client.get(f"/v1/jobs/{job_id}")).json()
        assert said == read
        assert read["status"] == ("succeeded" if succeeded else "cancelled")
        kinds = [e.type for e in events(database, job_id)]
        assert [kind for kind in kinds if kind.removeprefix("job.") in TERMINAL] == [f"job.{read['status']}"]
        outcomes[read["status"]] += 1

    async def main():
        headers = {"Authorization": f"Bearer {key}"}
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api", headers=headers) as client,
        ):
            for _ in range(200):
                await race(client)

    asyncio.run(main())
    assert min(outcomes.values()) > 10, outcomes
