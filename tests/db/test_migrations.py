"""The migrations make what the tables declare, up and down, with roles, partitions and triggers."""

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from service.config import psycopg_url
from service.db.migrate import downgrade, upgrade
from service.db.tables import Base
from service.local.postgres import SUPERUSER


def partition(name):
    return name is not None and any(
        name.startswith(f"{t}_")
        for t in ("completions", "cells", "judge_replies", "job_metrics", "job_events", "job_logs")
    )


def test_tables_are_what_the_code_declares(cluster, database_name):
    engine = create_engine(psycopg_url(cluster.url("grape_owner", database_name)))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = [
            diff
            for diff in compare_metadata(context, Base.metadata)
            # Partitions, and indexes that only the DDL knows, are no part of the declaration.
            if not (isinstance(diff, tuple) and diff[0] in ("remove_index", "remove_constraint"))
            and not (isinstance(diff, tuple) and diff[0] == "remove_table" and partition(diff[1].name))
            and not (isinstance(diff, tuple) and diff[0] == "remove_fk")
        ]
    engine.dispose()
    assert [d for d in differences if "remove_table" not in str(d) or "alembic_version" not in str(d)] == []


def test_down_and_up_again(cluster, database_name):
    url = cluster.url("grape_owner", database_name)
    downgrade(url)
    with psycopg.connect(url) as connection:
        tables = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").fetchone()
    assert tables == (1,)  # alembic_version
    upgrade(url)
    with psycopg.connect(cluster.url("grape_app", database_name)) as connection:
        assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (0,)


def test_the_application_role_owns_nothing_and_changes_no_versions(cluster, database_name):
    with psycopg.connect(cluster.url("grape_app", database_name), autocommit=True) as connection:
        role = connection.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, rolbypassrls FROM pg_roles WHERE rolname = 'grape_app'"
        )
        assert role.fetchone() == (False, False, False, False)
        for statement in (
            "UPDATE rubric_versions SET message = 'x'",
            "DELETE FROM judge_revisions",
            "UPDATE job_events SET type = 'x'",
            "DELETE FROM dataset_rows",
            "DROP TABLE jobs",
            "CREATE TABLE mine (a int)",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_versions_are_immutable_even_for_the_owner(cluster, database_name):
    with psycopg.connect(cluster.url(SUPERUSER, database_name), autocommit=True) as connection:
        connection.execute("INSERT INTO projects VALUES ('prj_1', 'p')")
        connection.execute(
            "INSERT INTO rubrics (id, project_id, name, latest_version) VALUES ('rub_1', 'prj_1', 'r', 1)"
        )
        connection.execute(
            "INSERT INTO rubric_versions (rubric_id, version, project_id, content, hash, author) "
            "VALUES ('rub_1', 1, 'prj_1', '{}', 'h', 'a')"
        )
        for statement in ("UPDATE rubric_versions SET content = '{\"a\": 1}'", "DELETE FROM rubric_versions"):
            with pytest.raises(psycopg.errors.CheckViolation, match="never change"):
                connection.execute(statement)


def test_growing_tables_are_partitioned_by_month_and_take_any_time(cluster, database_name):
    with psycopg.connect(cluster.url(SUPERUSER, database_name), autocommit=True) as connection:
        for table in ("completions", "cells", "judge_replies", "job_metrics", "job_events", "job_logs"):
            count = connection.execute(
                "SELECT count(*) FROM pg_inherits WHERE inhparent = %s::regclass", [table]
            ).fetchone()[0]
            assert count == 14  # this month, twelve ahead, and the default
        insert = (
            "INSERT INTO job_metrics (job_id, name, step, fence, created_at, project_id, attempt, value) "
            "VALUES ('j', 'm', 1, 1, %s, 'p', 1, 1)"
        )
        connection.execute(insert, ["2001-01-01"])
        found = connection.execute("SELECT tableoid::regclass::text FROM job_metrics").fetchone()
        assert found == ("job_metrics_default",)
        # A month that has rows in the default partition already is passed over with a warning, not an error.
        connection.execute(insert, ["now"])
        assert connection.execute("SELECT grape_make_partitions(13)").fetchone() == (6,)
        assert connection.execute("SELECT grape_make_partitions(13)").fetchone() == (0,)
