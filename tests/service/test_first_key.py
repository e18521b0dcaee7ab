"""A deployment without `grape up` gets its first key from the command line of the server."""

import os
import subprocess
import sys

from service.db.queries import projects as queries
from service.security import Vault

SECRET = "s" * 64


def run(url, secret=SECRET):
    env = {**os.environ, "GRAPE_DATABASE__URL": url, "GRAPE_SECRET_KEY": secret}
    command = [sys.executable, "-m", "service.projects"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_a_first_key_is_printed_and_known(cluster, database_name, database):
    first, second = (run(cluster.url("grape_app", database_name)) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    vault = Vault(SECRET)
    with database.transaction() as session:
        keys = [
            session.scalars(queries.key_by_hash(vault.hash_key(done.stdout.strip()))).one() for done in (first, second)
        ]
        assert [key.scopes for key in keys] == [["admin"], ["admin"]]
        assert len(session.scalars(queries.all_projects()).all()) == 1  # the second key is for the same project


def test_without_tables_or_secret_it_is_one_sentence(cluster, database_name):
    for done in (
        run(cluster.url("grape_app", "postgres")),
        run(cluster.url("grape_app", database_name), secret="short"),
    ):
        assert done.returncode == 1
        assert not done.stdout
        assert "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == 1
