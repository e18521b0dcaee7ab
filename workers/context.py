"""What a worker process has, built once from the settings: the composition root of `workers.app`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from service.config import Settings
from service.db.engine import Database
from service.domain.places import GRADING_LOCAL
from service.queue import Bell, Outbox, celery_app
from service.security import Vault
from service.storage import open_store
from workers.grading import GradingEngine
from workers.gradings.runner import GradingRunner
from workers.local_grading import LocalGradingEngine
from workers.nursery import Nursery
from workers.runs.cells import CellWork
from workers.runs.claims import Claims
from workers.runs.grading_claims import GradingClaims
from workers.supervise import Runner
from workers.transfer import Registrar


@dataclass(slots=True)
class Context:
    """Handed to tasks and to the poll thread."""

    settings: Settings
    database: Database
    outbox: Outbox
    claims: Claims
    nursery: Nursery
    runner: Runner
    grading: GradingEngine
    gradings: GradingRunner
    local_grading: LocalGradingEngine
    registrar: Registrar
    poll: Any = None


@lru_cache(maxsize=1)
def context() -> Context:
    """The process's one context."""
    settings = Settings()
    database = Database(settings.database)
    bell = Bell(settings.broker)
    claims = Claims(database, settings.jobs, settings.limits)
    nursery = Nursery(settings.jobs.run_dir, settings.jobs.waiting_children, settings.jobs.start_method)
    engine = GradingEngine(
        CellWork(database, bell, settings.grading.lease_s), settings, Vault(settings.require_secret_key())
    )
    store = open_store(settings.storage)
    local = CellWork(database, bell, settings.grading.lease_s, queue=GRADING_LOCAL)
    gradings = GradingClaims(database, settings.jobs, settings.grading.lease_s)
    return Context(
        settings=settings,
        database=database,
        outbox=Outbox(database, celery_app(settings.broker)),
        claims=claims,
        nursery=nursery,
        runner=Runner(claims, nursery),
        grading=engine,
        gradings=GradingRunner(gradings, settings, bell, asked=engine.wake),
        local_grading=LocalGradingEngine(local, settings, store),
        registrar=Registrar(database, store),
    )
