"""Wake-up messages: the outbox is filled in the transaction, and sent after it. Celery carries names and ids, no truth.

Everything here may fail without harm: the rows are polled (jobs.md), so a lost message costs a second or two.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable

from celery import Celery
from redis import Redis
from redis.exceptions import RedisError

from service.config import BrokerSettings
from service.db.engine import Database
from service.db.queries import jobs as queries

log = logging.getLogger(__name__)

VISIBILITY_TIMEOUT_S = 3600
TRANSPORT = {
    "visibility_timeout": VISIBILITY_TIMEOUT_S,
    "socket_connect_timeout": 2,
    "socket_timeout": 5,
    "socket_keepalive": True,
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,
}


def celery_app(settings: BrokerSettings, name: str = "grape") -> Celery:
    """A Celery handle without a result backend: results are rows."""
    app = Celery(name, broker=settings.url)
    app.conf.update(
        broker_transport_options=TRANSPORT,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        timezone="UTC",
    )
    return app


class Outbox:
    """Sends what transactions have left in the outbox."""

    def __init__(self, database: Database, celery: Celery) -> None:
        self._database = database
        self._celery = celery
        self._sending = threading.Lock()

    def flush(self) -> int:
        """Send every due message; the number sent. A broker that is away leaves them for the next time."""
        if not self._sending.acquire(blocking=False):
            return 0
        try:
            return self._send()
        except Exception as error:
            log.warning("wake-up messages wait: %s", error)
            return 0
        finally:
            self._sending.release()

    def _send(self) -> int:
        # Marked as sent before they are: a broker that hangs must hold no lock on rows that a claim deletes.
        with self._database.transaction() as session:
            due = session.scalars(queries.due_messages()).all()
            if due:
                session.execute(queries.sent([message.id for message in due]))
        left = [message.id for message in due]
        try:
            if due:
                with self._celery.producer_pool.acquire(block=True, timeout=2) as producer:
                    for message in due:
                        self._celery.send_task(
                            message.task, args=[message.subject_id], queue=message.queue, producer=producer, retry=False
                        )
                        left.remove(message.id)
        finally:
            if left:
                with self._database.transaction() as session:
                    session.execute(queries.unsent(left))
        return len(due)


class Bell:
    """Redis publish and subscribe as a door bell: rings are hints, and both sides work without it."""

    def __init__(self, settings: BrokerSettings) -> None:
        self._redis = Redis.from_url(
            settings.url, socket_connect_timeout=1, socket_timeout=1, health_check_interval=30, protocol=2
        )

    def ring(self, channel: str) -> None:
        """Wake whoever listens on `channel`."""
        with contextlib.suppress(RedisError, OSError):
            self._redis.publish(channel, b"1")

    def reachable(self) -> bool:
        """Whether the broker answers."""
        try:
            return bool(self._redis.ping())
        except (RedisError, OSError):
            return False

    def listen(self, channel: str) -> Callable[[float], None]:
        """A function that waits for a ring or the time-out, whichever is first."""
        pubsub = self._redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        pause = threading.Event()
        subscribed = False

        def wait(timeout_s: float) -> None:
            nonlocal subscribed
            try:
                if not subscribed:
                    pubsub.subscribe(channel)
                    subscribed = True
                if pubsub.get_message(timeout=timeout_s) is not None:
                    while pubsub.get_message(timeout=0) is not None:  # several rings are one
                        pass
            except (RedisError, OSError):
                subscribed = False
                pause.wait(timeout_s)

        return wait
