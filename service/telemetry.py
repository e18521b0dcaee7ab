"""`/metrics` for Prometheus: requests of this process, and the state of all open work as the database has it.

Without a key, as `/livez` and `/readyz`: it holds counts, model names and judge ids, nothing that a tenant wrote. Do not route it to
the outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from sqlalchemy import TextClause

from service.db.queries import telemetry as queries
from service.domain.job_state import STATES, TERMINAL
from service.services import Services

telemetry = APIRouter(tags=["health"])

OPEN = [state for state in STATES if state not in TERMINAL]
_STATEMENTS: dict[str, TextClause] = {
    "jobs": queries.JOBS.bindparams(statuses=OPEN),
    "attempts": queries.ATTEMPTS,
    "batches": queries.BATCHES,
    "gradings": queries.GRADINGS,
    "outbox": queries.OUTBOX,
    "endpoints": queries.ENDPOINTS,
    "spending": queries.SPENDING,
}
BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 120.0)


class Requests:
    """The requests of this process, by method, route and status; a path that no route has is `none`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.seconds = Histogram(
            "grape_http_request_seconds", "From the first byte of a request to the first of its answer.",
            ["method", "route", "status"], registry=self.registry, buckets=BUCKETS,
        )  # fmt: skip

    def note(self, scope: Any, status: int, seconds: float) -> None:
        """Count one request in. The route is known once the application has answered."""
        route = getattr(scope.get("route"), "path", "none")
        self.seconds.labels(scope["method"], route, str(status)).observe(seconds)


@telemetry.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """The text format of Prometheus. A database that is away is said as `grape_database_up 0`; the requests are there all the same."""
    services: Services = request.app.state.services
    registry = CollectorRegistry()
    registry.register(_Found(await _read(services)))
    body = generate_latest(request.app.state.requests.registry) + generate_latest(registry)
    return Response(body, headers={"content-type": CONTENT_TYPE_LATEST})


async def _read(services: Services) -> dict[str, Sequence[Any]] | None:
    try:
        async with services.database.session() as session:
            return {name: (await session.execute(statement)).all() for name, statement in _STATEMENTS.items()}
    except Exception:
        return None


class _Found:
    """What the statements have found, as metrics; registered for one answer."""

    def __init__(self, rows: dict[str, Sequence[Any]] | None) -> None:
        self.rows = rows

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        up = GaugeMetricFamily("grape_database_up", "Whether the database answered.")
        up.add_metric([], float(self.rows is not None))
        yield up
        if self.rows is None:
            return
        yield _gauge("jobs", "Jobs that have not ended.", ["status"], [([r.status], r.jobs) for r in self.rows["jobs"]])
        yield _gauge(
            "jobs_oldest_seconds", "Since the oldest job of a status was submitted.", ["status"],
            [([r.status], r.oldest_s) for r in self.rows["jobs"]],
        )  # fmt: skip
        attempts = self.rows["attempts"]
        yield _gauge(
            "attempts_held", "Attempts under a lease.", ["algorithm"], [([r.algorithm], r.held) for r in attempts]
        )
        yield _gauge(
            "attempts_lapsed", "Attempts whose lease has run out: their worker is dead or cut off.", ["algorithm"],
            [([r.algorithm], r.lapsed) for r in attempts],
        )  # fmt: skip
        batches = self.rows["batches"]
        yield _gauge(
            "cell_batches", "Batches of cells that are not done.", ["queue", "status"],
            [([r.queue, r.status], r.batches) for r in batches],
        )  # fmt: skip
        yield _gauge(
            "cell_batches_oldest_seconds", "Since the oldest of them was asked for.", ["queue", "status"],
            [([r.queue, r.status], r.oldest_s) for r in batches],
        )  # fmt: skip
        yield _gauge(
            "gradings", "Gradings that have not ended.", ["status"],
            [([r.status], r.gradings) for r in self.rows["gradings"]],
        )  # fmt: skip
        yield _gauge(
            "outbox_due", "Messages to workers that should have been sent by now.", [],
            [([], r.messages) for r in self.rows["outbox"]],
        )  # fmt: skip
        yield from self._judges(self.rows["endpoints"], self.rows["spending"])

    def _judges(self, endpoints: Sequence[Any], spending: Sequence[Any]) -> Iterator[Metric]:
        for name, column, what in (
            ("judge_endpoints", "endpoints", "Judges' endpoints that were ever asked."),
            ("judge_endpoints_held", "held", "Endpoints that have asked for a pause."),
            ("judge_slots", "slots", "Calls that workers may have in flight."),
            ("judge_demand", "demand", "Calls that are made or wait."),
        ):
            yield _gauge(name, what, ["model"], [([r.model], getattr(r, column)) for r in endpoints])
        for name, what in (
            ("calls", "Calls of a judge."),
            ("tokens_in", "Tokens of its questions."),
            ("tokens_out", "Tokens of its answers."),
            ("cost_usd", "What they cost by the judge's prices."),
        ):
            counter = CounterMetricFamily(f"grape_judge_{name}", what, labels=["judge"])
            for row in spending:
                counter.add_metric([row.judge_id], float(getattr(row, name)))
            yield counter


def _gauge(name: str, what: str, labels: list[str], values: Sequence[tuple[list[str], float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"grape_{name}", what, labels=labels)
    for label_values, value in values:
        family.add_metric(label_values, float(value))
    return family
