"""What `/metrics` reads, over all projects: a fixed number of statements that look at open work only, through its indexes."""

from __future__ import annotations

from sqlalchemy import TextClause, text

JOBS: TextClause = text(
    """
    SELECT s.status, coalesce(sum(n.jobs), 0)::bigint AS jobs,
           coalesce(extract(epoch FROM clock_timestamp() - min(n.oldest)), 0)::float8 AS oldest_s
    FROM unnest(CAST(:statuses AS text[])) AS s(status) CROSS JOIN projects p
    CROSS JOIN LATERAL (SELECT count(*) AS jobs, min(created_at) AS oldest FROM jobs
                        WHERE project_id = p.id AND status = s.status) AS n
    GROUP BY s.status
    """
)
"""Jobs that have not ended, by status, and how long ago the oldest of each was submitted."""

ATTEMPTS: TextClause = text(
    """
    SELECT j.algorithm, count(*) FILTER (WHERE a.lease_expires_at >= clock_timestamp()) AS held,
           count(*) FILTER (WHERE a.lease_expires_at < clock_timestamp()) AS lapsed
    FROM attempts a JOIN jobs j ON j.id = a.job_id WHERE a.ended_at IS NULL GROUP BY j.algorithm
    """
)
"""Attempts under a lease, and those whose lease has run out and that nobody has reaped yet."""

BATCHES: TextClause = text(
    """
    SELECT queue, status, count(*) AS batches,
           extract(epoch FROM clock_timestamp() - min(created_at))::float8 AS oldest_s
    FROM cell_batches WHERE status <> 'done' GROUP BY queue, status
    """
)
"""Batches of cells that are not done."""

GRADINGS: TextClause = text(
    "SELECT status, count(*) AS gradings FROM gradings WHERE status IN ('queued', 'running') GROUP BY status"
)

OUTBOX: TextClause = text("SELECT count(*) AS messages FROM outbox WHERE send_at <= clock_timestamp()")
"""Messages that should have been sent by now."""

ENDPOINTS: TextClause = text(
    """
    SELECT e.model, count(DISTINCT e.id) AS endpoints,
           count(DISTINCT e.id) FILTER (WHERE e.held_until > clock_timestamp()) AS held,
           coalesce(sum(s.slots), 0)::bigint AS slots, coalesce(sum(s.demand), 0)::bigint AS demand
    FROM judge_endpoints e LEFT JOIN judge_shares s ON s.endpoint_id = e.id AND s.expires_at > clock_timestamp()
    GROUP BY e.model
    """
)
"""Judges' endpoints: slots that workers hold now, calls that are made or wait, endpoints that have asked for a pause."""

SPENDING: TextClause = text(
    """
    SELECT judge_id, sum(calls)::bigint AS calls, sum(tokens_in)::bigint AS tokens_in,
           sum(tokens_out)::bigint AS tokens_out, coalesce(sum(cost_usd), 0)::float8 AS cost_usd
    FROM judge_spending WHERE owner_id = judge_id GROUP BY judge_id
    """
)
"""What each judge was asked for everybody."""
