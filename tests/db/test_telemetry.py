"""`/metrics`: the open work as the database has it, this process's requests, and an answer also without a database."""

import asyncio

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.app import create_app
from service.config import DatabaseSettings, Settings

ROWS = """
    INSERT INTO projects (id, name) VALUES ('prj_1', 'p'), ('prj_2', 'q');
    INSERT INTO judges (id, project_id, name, revision, limits) VALUES ('jdg_1', 'prj_1', 'j', 1, '{}');
    INSERT INTO jobs (id, project_id, name, algorithm, status, spec, resolved, created_at) VALUES
        ('job_1', 'prj_1', 'j', 'sft', 'queued', '{}', '{}', now() - interval '90 s'),
        ('job_2', 'prj_2', 'j', 'grape', 'queued', '{}', '{}', now()),
        ('job_3', 'prj_1', 'j', 'grape', 'running', '{}', '{}', now()),
        ('job_4', 'prj_1', 'j', 'grape', 'running', '{}', '{}', now());
    INSERT INTO jobs (id, project_id, name, algorithm, status, spec, resolved, finished_at)
        VALUES ('job_5', 'prj_1', 'j', 'sft', 'succeeded', '{}', '{}', now());
    INSERT INTO attempts (job_id, fence, project_id, attempt, worker_id, host, lease_expires_at) VALUES
        ('job_3', 1, 'prj_1', 1, 'w', 'h', now() + interval '60 s'), ('job_4', 1, 'prj_1', 1, 'w', 'h', now() - interval '1 s');
    INSERT INTO cell_batches (id, project_id, job_id, key, queue, status, payload) VALUES
        ('b1', 'prj_1', 'job_3', 'k1', 'grading', 'queued', '{}'), ('b2', 'prj_1', 'job_3', 'k2', 'grading', 'done', '{}');
    INSERT INTO judge_endpoints (id, base_url, model, held_until) VALUES ('e1', 'u', 'm', now() + interval '9 s'), ('e2', 'v', 'm', NULL);
    INSERT INTO judge_shares (endpoint_id, worker_id, concurrency, timeout_s, demand, slots, expires_at) VALUES
        ('e1', 'w1', 8, 30, 9, 4, now() + interval '9 s'), ('e2', 'w1', 8, 30, 2, 2, now() + interval '9 s'),
        ('e2', 'dead', 8, 30, 5, 5, now() - interval '9 s');
    INSERT INTO judge_spending (owner_id, judge_id, writer, project_id, calls, estimated, tokens_in, tokens_out, cost_usd) VALUES
        ('jdg_1', 'jdg_1', 'w1', 'prj_1', 3, 0, 300, 30, 0.5), ('jdg_1', 'jdg_1', 'w2', 'prj_1', 2, 0, 200, 20, 0.25),
        ('job_3', 'jdg_1', 'w1', 'prj_1', 3, 0, 300, 30, 0.5)
"""


def ask(url, *paths):
    """The answers of an application on this database."""
    app = create_app(Settings(database=DatabaseSettings(url=url), secret_key="s" * 32))

    async def run():
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://api") as http,
        ):
            return [await http.get(path) for path in paths]

    return asyncio.run(run())


def values_of(answer):
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


@pytest.fixture
def url(cluster, database_name):
    return cluster.url("grape_app", database_name)


def test_open_work_of_all_projects(database, url):
    with database.transaction() as session:
        for statement in ROWS.split(";\n"):
            session.connection().exec_driver_sql(statement)
    (answer,) = ask(url, "/metrics")
    found = values_of(answer)
    assert found["grape_database_up",] == 1
    assert {key[1]: n for key, n in found.items() if key[0] == "grape_jobs" and n} == {"queued": 2, "running": 2}
    assert ("grape_jobs", "succeeded") not in found
    assert 90 <= found["grape_jobs_oldest_seconds", "queued"] < 150
    assert found["grape_attempts_held", "grape"] == found["grape_attempts_lapsed", "grape"] == 1
    assert found["grape_cell_batches", "grading", "queued"] == 1
    assert found["grape_judge_endpoints", "m"] == 2
    assert found["grape_judge_endpoints_held", "m"] == 1
    assert (found["grape_judge_slots", "m"], found["grape_judge_demand", "m"]) == (6, 11)  # without the dead worker's
    assert found["grape_judge_calls_total", "jdg_1"] == 5  # the judge's own rows, not those of its jobs once more
    assert found["grape_judge_tokens_in_total", "jdg_1"] == 500
    assert found["grape_judge_cost_usd_total", "jdg_1"] == 0.75


def test_requests_are_counted_by_route(url):
    *_, answer = ask(url, "/livez", "/v1/jobs/job_x", "/v1/jobs/job_y", "/nowhere", "/metrics")
    found = values_of(answer)
    assert found["grape_http_request_seconds_count", "GET", "/livez", "200"] == 1
    assert found["grape_http_request_seconds_count", "GET", "/v1/jobs/{job_id}", "401"] == 2
    assert found["grape_http_request_seconds_count", "GET", "none", "404"] == 1


def test_without_a_database_the_requests_are_still_told():
    *_, answer = ask("postgresql://grape_app:x@127.0.0.1:1/grape", "/livez", "/metrics")
    found = values_of(answer)
    assert found["grape_database_up",] == 0
    assert found["grape_http_request_seconds_count", "GET", "/livez", "200"] == 1
    assert not any(key[0] == "grape_jobs" for key in found)
