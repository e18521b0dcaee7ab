"""The Celery app: `celery -A workers.app worker -Q training …`. Queues, routes and settings stand here."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from celery.exceptions import SecurityWarning
from celery.signals import setup_logging

from service.queue import celery_app
from workers.context import context
from workers.poll import PollStep

app = celery_app(context().settings.broker)
QUEUES = ("training", "grading", "grading_local", "transfer", "maintenance")
"""Each has its tasks in the module of its name."""
app.conf.update(
    imports=[f"workers.tasks.{name}" for name in QUEUES],
    task_routes={f"workers.tasks.{name}.*": {"queue": name} for name in QUEUES},
    task_create_missing_queues=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    worker_enable_remote_control=False,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    beat_schedule={
        "housekeeping": {
            "task": "workers.tasks.maintenance.housekeeping",
            "schedule": 3600.0,
            "options": {"queue": "maintenance", "expires": 3600},
        }
    },
)
app.steps["worker"].add(PollStep)
# Celery warns root of pickled messages; this app accepts JSON alone, and its children are what needs an account of their own.
warnings.filterwarnings("ignore", category=SecurityWarning, module="celery.platforms")


@setup_logging.connect(weak=False)  # type: ignore[untyped-decorator]
def _log(**_: Any) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("celery.worker.strategy").setLevel(logging.WARNING)
    logging.getLogger("celery.app.trace").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
