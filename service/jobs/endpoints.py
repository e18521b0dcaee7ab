"""`/v1/jobs`."""

from __future__ import annotations

from itertools import groupby
from typing import Annotated

from fastapi import Depends, Header, Query, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse

from service.db.queries import jobs as queries
from service.db.queries import records
from service.db.tables import Job, JobEvent, JobLog
from service.deps import CallerDep, Listing, PageDep, ServicesDep, SessionDep, SortDep
from service.domain.base import whole_number
from service.domain.job import JobSpec
from service.domain.job_state import State
from service.errors import Invalid
from service.jobs import commands
from service.jobs.schemas import EventOut, JobOut, LogOut, MetricsOut, PointOut, ResumeIn, SeriesOut
from service.jobs.stream import stream_events
from service.operation import needs, router

jobs = router("jobs")


async def _job(job_id: str, session: SessionDep, caller: CallerDep) -> Job:
    return await commands.load(session, caller.project_id, job_id)


JobDep = Annotated[Job, Depends(_job)]
Seq = Annotated[int | None, Query(ge=0, le=2**62)]


@jobs.post("/v1/jobs", status_code=201, openapi_extra=needs("jobs:write"))
async def submit(body: JobSpec, session: SessionDep, caller: CallerDep, response: Response) -> JobOut:
    """Submit a job. Everything that it names is checked and pinned now."""
    job = await commands.submit_job(session, caller, body)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return JobOut.of(job)


@jobs.get("/v1/jobs", openapi_extra=needs("jobs:read"))
async def list_jobs(
    session: SessionDep,
    caller: CallerDep,
    page: PageDep,
    status: State | None = None,
    algorithm: str | None = None,
    name: str | None = None,
    sort: SortDep = "-created_at",
) -> Listing[JobOut]:
    """List jobs, newest first."""
    statement = queries.of_project(caller.project_id)
    for column, value in ((Job.status, status), (Job.algorithm, algorithm), (Job.name, name)):
        if value is not None:
            statement = statement.where(column == value)
    return await page.fetch(
        session, statement, [Job.id], JobOut.of, lambda row: [row.id], descending=sort.startswith("-")
    )


@jobs.get("/v1/jobs/{job_id}", openapi_extra=needs("jobs:read"))
async def get_job(job: JobDep) -> JobOut:
    """A job."""
    return JobOut.of(job)


@jobs.post("/v1/jobs/{job_id}/cancel", openapi_extra=needs("jobs:write"))
async def cancel(job: JobDep, session: SessionDep) -> JobOut:
    """Cancel at once and for good: after this answer the job writes nothing. A finished job stays as it is."""
    terminal = frozenset({"succeeded", "failed", "cancelled"})
    return JobOut.of(await commands.wish(session, job, "cancel", terminal))


@jobs.post("/v1/jobs/{job_id}/pause", openapi_extra=needs("jobs:write"))
async def pause(job: JobDep, session: SessionDep) -> JobOut:
    """Pause: a running job writes a checkpoint first (`pausing`), then gives its worker back."""
    return JobOut.of(await commands.wish(session, job, "pause", frozenset({"pausing", "paused"})))


@jobs.post("/v1/jobs/{job_id}/resume", openapi_extra=needs("jobs:write"))
async def resume(job: JobDep, session: SessionDep, body: ResumeIn | None = None) -> JobOut:
    """Go on from the last checkpoint; while `pausing`, this withdraws the pause. `limits` gives the job other ones, also where it
    runs already.
    """
    if body is not None and body.limits.model_fields_set:
        job = await commands.change_limits(session, job, body.limits)
    holds = frozenset({"queued", "starting", "running", "finalizing", "retry_wait"})
    return JobOut.of(await commands.wish(session, job, "resume", holds))


@jobs.get(
    "/v1/jobs/{job_id}/events",
    openapi_extra=needs("jobs:read"),
    responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    response_model=Listing[EventOut],
)
async def list_events(
    job: JobDep,
    request: Request,
    session: SessionDep,
    services: ServicesDep,
    caller: CallerDep,
    page: PageDep,
    after_seq: Seq = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Listing[EventOut] | Response:
    """A job's events in order; with `Accept: text/event-stream` they are streamed, resuming after `Last-Event-ID`."""
    start = after_seq or 0
    if last_event_id:
        number = whole_number(last_event_id)
        if number is None:
            raise Invalid(
                "Last-Event-ID is the `id` of an event, a number", code="invalid_last_event_id", param="Last-Event-ID"
            )
        start = number
    if "text/event-stream" in request.headers.get("accept", ""):
        stream = stream_events(services.database, request.app.state.feed, job.id, caller.key_id, start)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)
    return await page.fetch(session, records.events(job.id, start), [JobEvent.seq], EventOut.of, lambda row: [row.seq])


@jobs.get("/v1/jobs/{job_id}/metrics", openapi_extra=needs("jobs:read"))
async def get_metrics(
    job: JobDep,
    session: SessionDep,
    names: Annotated[str | None, Query(description="names, separated by commas")] = None,
    after_step: Annotated[int | None, Query(ge=-1, le=2**31 - 1)] = None,
) -> MetricsOut:
    """The job's metric series."""
    wanted = [name.strip() for name in names.split(",") if name.strip()] if names else None
    rows = (await session.execute(records.metrics(job.id, wanted, after_step))).all()
    return MetricsOut(
        data=[
            SeriesOut(
                name=name,
                points=[
                    PointOut(step=row.step, value=row.value, attempt=row.attempt, superseded=row.superseded)
                    for row in points
                ],
            )
            for name, points in groupby(rows, key=lambda row: row.name)
        ]
    )


@jobs.get(
    "/v1/jobs/{job_id}/logs",
    openapi_extra=needs("jobs:read"),
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    response_model=Listing[LogOut],
)
async def get_logs(job: JobDep, request: Request, session: SessionDep, page: PageDep) -> Listing[LogOut] | Response:
    """What the training process printed; as text with `Accept: text/plain`."""
    found = await page.fetch(
        session,
        records.logs(job.id),
        [JobLog.fence, JobLog.seq],
        lambda row: LogOut(attempt=row[1], seq=row[0].seq, created_at=row[0].created_at, text=row[0].text),
        lambda row: [row[0].fence, row[0].seq],
    )
    if "text/plain" in request.headers.get("accept", ""):
        following = {"Link": f'<?page_token={found.next_page_token}>; rel="next"'} if found.next_page_token else {}
        return PlainTextResponse("".join(chunk.text for chunk in found.data), headers=following)
    return found
