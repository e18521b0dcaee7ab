"""`grape up` as a newcomer and an operator meet it: real processes, real signals."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import psycopg
import pytest

from service.local.processes import LogFile, Program, Supervisor
from tests.support.stack import RunningStack, alive, wait_for

ROLES = {"postgres", "valkey", "api", "training", "grading", "beat"}


@pytest.fixture
def own(open_folder, request):
    """A stack of the test's own, killed at the end whatever happens."""
    name = request.node.name.replace("[", "-").replace("]", "")
    running = RunningStack(open_folder / name)
    yield running
    if running.process is not None and running.process.poll() is None:
        running.stop(signal.SIGTERM)


def listed(running):
    return json.loads((running.folder / "processes.json").read_text())


def test_from_an_empty_folder_to_a_clean_stop(own):
    own.start()
    credentials = own.folder / "credentials.json"
    assert stat.S_IMODE(credentials.stat().st_mode) == 0o600
    found = json.loads(credentials.read_text())
    assert set(found) == {"base_url", "api_key"}
    with own.client() as api:
        assert [p["name"] for p in api.pages("/v1/projects")] == ["default"]
    entries = wait_for(lambda: (e := listed(own)) and {x["role"] for x in e} == ROLES and e, 20, "all roles are listed")
    pids = [entry["pid"] for entry in entries]
    assert all(alive(pid) for pid in pids)
    assert all(set(entry) == {"role", "pid", "started_at"} for entry in entries)
    # a second start on the same folder says so and disturbs nothing
    second = subprocess.run(
        [sys.executable, "-m", "service.local", "--data-dir", str(own.folder)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert second.returncode == 1
    assert f"already running on {own.folder}" in second.stderr
    assert "Traceback" not in second.stderr
    assert all(alive(pid) for pid in pids)
    # Ctrl-C
    assert own.stop(signal.SIGINT) == 0
    assert not any(alive(pid) for pid in pids)
    assert listed(own) == []
    # the same key works after another start, whose port may differ
    own.start()
    assert json.loads(credentials.read_text())["api_key"] == found["api_key"]
    with own.client() as api:
        assert api.get("/v1/jobs")["data"] == []


def test_kill_takes_every_child_and_the_next_start_recovers(own):
    own.start()
    entries = wait_for(lambda: (e := listed(own)) and {x["role"] for x in e} == ROLES and e, 20, "all roles are listed")
    with own.client() as api:
        rubric = api.post("/v1/rubrics", {"name": "r", "content": {"criteria": [
            {"key": "a", "weight": 1, "grader": {"type": "regex", "pattern": "x"}}]}})  # fmt: skip
    # The worst order: the supervisor hangs, Postgres is killed without a word, then the supervisor too.
    own.process.send_signal(signal.SIGSTOP)
    own.kill("postgres")
    own.stop(signal.SIGKILL)
    wait_for(lambda: not any(alive(e["pid"]) for e in entries), 10, "everything died with it")
    assert (own.folder / "postgres" / "postmaster.pid").exists(), "a stale pid file, as a crash leaves it"
    own.start()
    with own.client() as api:
        assert api.get(f"/v1/rubrics/{rubric['id']}")["name"] == "r"


def test_a_stale_pid_file_that_names_somebody_else_is_taken_away(own):
    own.start()
    own.stop(signal.SIGTERM)
    stale = own.folder / "postgres" / "postmaster.pid"
    stale.write_text(f"{os.getpid()}\n{own.folder}/postgres\n")  # a pid that lives, and is no Postgres
    own.start()
    with own.client() as api:
        assert api.get("/v1/jobs")["data"] == []


def test_a_half_made_cluster_is_made_again(own):
    (own.folder / "postgres.new" / "data").mkdir(parents=True)
    (own.folder / "postgres.new" / "data" / "half").write_text("made")
    own.folder.chmod(0o755)
    own.start()
    assert not (own.folder / "postgres.new").exists()
    assert (own.folder / "postgres" / "PG_VERSION").exists()


def test_a_stop_before_everything_is_up_is_a_stop(own):
    own.start(wait=False)
    wait_for(lambda: (own.folder / "processes.json").exists() and own.pids("postgres"), 60, "the first server runs")
    assert own.stop(signal.SIGTERM) == 0
    assert listed(own) == []
    assert not (own.folder / "credentials.json").exists()
    assert "GRAPE is ready" not in own.log()


def test_a_terminal_that_is_closed_stops_nothing_until_it_hangs_up(own):
    """`grape up | head -3`, then a program that has something to say: the pipe is broken, and the stack works on."""
    own.start(stdout=subprocess.PIPE)
    for _ in range(3):
        own.process.stdout.readline()
    own.process.stdout.close()
    pid = own.kill("beat")
    wait_for(lambda: own.pids("beat") and own.pids("beat") != [pid], 20, "beat runs again")
    with own.client() as api:
        assert api.get("/v1/jobs")["data"] == []
    entries = listed(own)
    assert own.stop(signal.SIGHUP) == 0  # the terminal is closed: everything is stopped in order
    assert not any(alive(entry["pid"]) for entry in entries)
    assert listed(own) == []


def test_full_disks_stop_no_program(tmp_path):
    """Logs and the list of processes cannot be written; what a program prints is still taken from it."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "talker.log").symlink_to("/dev/full")
    said = []
    supervisor = Supervisor(Path("/dev/full/processes.json"), tmp_path, tmp_path / "logs", said.append)
    program = (
        f"import pathlib\nfor k in range(20000): print('x' * 50)\npathlib.Path({str(tmp_path / 'done')!r}).touch()"
    )
    supervisor.start(Program("talker", [sys.executable, "-c", program], echo=False))
    try:
        wait_for((tmp_path / "done").exists, 20, "a megabyte was printed")
        assert any("processes.json cannot be written" in line for line in said)
    finally:
        supervisor.stop()


def test_logs_are_bounded(tmp_path):
    log = LogFile(tmp_path / "a.log", limit=1000)
    for k in range(100):
        log.write(b"%099d\n" % k)
    log.close()
    now, before = ((tmp_path / name).read_bytes() for name in ("a.log", "a.log.1"))
    assert max(len(now), len(before)) <= 1100
    assert (before + now).endswith(b"%099d\n" % 99)
    assert [int(line) for line in (before + now).split()] == list(range(100 - len(before + now) // 100, 100))


@pytest.mark.parametrize("role", ["api", "grading", "training", "valkey", "postgres"])
def test_a_dead_program_is_started_again_at_its_place(stack, role):
    before = json.loads((stack.folder / "credentials.json").read_text())["base_url"]
    pid = stack.kill(role)
    wait_for(lambda: stack.pids(role) and stack.pids(role) != [pid], 30, f"{role} runs again")

    def answers():
        try:
            return httpx.get(f"{before}/readyz", timeout=2).json()["status"] == "ready"
        except (httpx.HTTPError, KeyError):
            return False

    wait_for(answers, 30, "the API answers on the same port and reaches its servers")


def test_servers_are_closed_to_strangers(stack):
    secrets = json.loads((stack.folder / "secrets.json").read_text())
    assert stat.S_IMODE((stack.folder / "secrets.json").stat().st_mode) == 0o600
    assert len(set(secrets.values())) == len(secrets)
    (pid,) = stack.pids("postgres")
    port = stack.port("postgres")
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(f"postgresql://postgres:wrong@127.0.0.1:{port}/grape")
    with psycopg.connect(f"postgresql://postgres:{secrets['postgres']}@127.0.0.1:{port}/grape") as connection:
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
        assert connection.execute("SHOW password_encryption").fetchone() == ("scram-sha-256",)
        assert connection.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)
    with open(f"/proc/{stack.pids('valkey')[0]}/cmdline", "rb") as stream:
        assert secrets["valkey"].encode() not in stream.read()
    if os.geteuid() == 0:
        assert os.stat(f"/proc/{pid}").st_uid != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's servers run as another user")
def test_a_folder_that_the_servers_cannot_reach_is_one_clear_error(tmp_path):
    tmp_path.chmod(0o700)
    done = subprocess.run(
        [sys.executable, "-m", "service.local", "--data-dir", str(tmp_path / "d")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "cannot be reached" in done.stderr
    assert "--data-dir" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_one_clear_error(open_folder):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "service.local", "--data-dir", str(open_folder / "taken"), "--port", str(port)],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_servers_of_ones_own_are_used(cluster, database_name, open_folder, stack):
    broker = (stack.folder / "valkey" / "valkey.conf").read_text()
    port = next(line.split()[1] for line in broker.splitlines() if line.startswith("port"))
    password = json.loads((stack.folder / "secrets.json").read_text())["valkey"]
    running = RunningStack(
        open_folder / "own-servers",
        {
            "GRAPE_DATABASE__URL": cluster.url("grape_app", database_name),
            "GRAPE_DATABASE__MIGRATION_URL": cluster.url("grape_owner", database_name),
            "GRAPE_BROKER__URL": f"redis://:{password}@127.0.0.1:{port}/5",
        },
    )
    try:
        running.start()
        assert not running.pids("postgres")
        assert not running.pids("valkey")
        with running.client() as api:
            assert api.get("/v1/jobs")["data"] == []
    finally:
        running.stop(signal.SIGTERM)
