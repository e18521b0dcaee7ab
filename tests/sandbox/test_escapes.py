"""Escapes: what code must not reach, and what it must not use up. Each runs for real, against things that are really there."""

# ruff: noqa: E501 (programs in one line each)

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workers.sandbox.run import Limits, Sandbox

pytestmark = pytest.mark.sandbox


def outcome(body):
    """Code whose `attempt()` says what came of it: a value if it succeeded, else the name of the exception."""
    lines = "\n".join("        " + line for line in body.strip().splitlines())
    return f"""
import ctypes, os, socket, subprocess, sys
def attempt():
    try:
{lines}
    except BaseException as error:
        return type(error).__name__
"""


@pytest.fixture
def bait(tmp_path):
    """A file of the host that everybody may read and write."""
    for folder in (tmp_path, *tmp_path.parents):
        if str(folder).startswith("/tmp/") and os.access(folder, os.W_OK):
            folder.chmod(0o777)
    path = tmp_path / "bait"
    path.write_text("secret")
    path.chmod(0o666)
    return path


READ = ("FileNotFoundError", "PermissionError", "NotADirectoryError")


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "/etc/shadow", "/proc/1/environ", "/proc/self/environ", "/proc/self/mem", "/proc/1/root", "/sys/kernel",
        "/root/.bashrc", "/home", "/var/run/docker.sock", "/dev/mem", "/dev/vda", "/dev/kmsg", "/proc/kcore", "/proc/1/fd/0",
        str(Path(__file__)), str(Path.cwd() / "pyproject.toml"),
    ],
)  # fmt: skip
def test_files_of_the_host_cannot_be_read(run, path):
    ran = run(outcome(f"return open({path!r}, 'rb').read(10)"), f"assert attempt() in {READ}")
    assert ran.share == 1, ran


def test_a_readable_file_cannot_be_read_linked_or_changed(run, bait):
    for body in (
        f"return open({str(bait)!r}).read()",
        f"os.symlink({str(bait)!r}, '/tmp/l'); return open('/tmp/l').read()",
        f"os.link({str(bait)!r}, '/tmp/h'); return open('/tmp/h').read()",
        f"return open('/tmp/../..{bait}').read()",
        f"os.rename({str(bait)!r}, '/tmp/x')",
        f"os.chmod({str(bait)!r}, 0)",
        "os.chroot('/tmp'); return os.listdir('/..')",
    ):
        assert run(outcome(body), f"assert attempt() in {READ}").share == 1, body
    assert bait.read_text() == "secret"


@pytest.mark.parametrize(
    "folder", ["/", "/etc", "/usr/lib", "/dev", "/proc", os.path.dirname(os.__file__), str(Path.cwd())]
)
def test_only_the_work_folder_can_be_written(run, folder):
    body = f"open({folder!r} + '/dropped', 'w').write('x'); return 'wrote'"
    assert run(outcome(body), "assert attempt() in ('OSError', 'PermissionError', 'FileNotFoundError')").share == 1
    assert not Path(folder, "dropped").exists()


def test_the_work_folder_can_be_used(run):
    code = "def f():\n    open('/tmp/a', 'w').write('x')\n    import tempfile\n    with tempfile.TemporaryFile() as t:\n        t.write(b'yy')\n    return open('a').read()"
    assert run(code, "assert f() == 'x'").share == 1


def test_secrets_of_the_environment_are_not_there(run, monkeypatch):
    monkeypatch.setenv("GRAPE_SECRET_KEY", "a" * 64)
    ran = run("import os\ndef f(): return sorted(os.environ)", "assert set(f()) <= {'HOME', 'LANG', 'TMPDIR', 'PWD'}")
    assert ran.share == 1, ran


def test_nothing_listens_for_it(run):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0grape-{os.getpid()}")
        abstract.listen()
        port = server.getsockname()[1]
        addresses = [
            ("127.0.0.1", port),
            ("169.254.169.254", 80),
            ("1.1.1.1", 53),
            ("localhost", 5432),
            ("localhost", 6379),
        ]
        bodies = [f"socket.create_connection({address!r}, 1); return 'connected'" for address in addresses]
        bodies += [
            f"s = socket.socket(socket.AF_UNIX); s.connect('\\0grape-{os.getpid()}'); return 'connected'",
            "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.sendto(b'x', ('1.1.1.1', 53)); return 'sent'",
            "s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW); return 'netlink'",
            "s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1); return 'raw'",
            "return socket.getaddrinfo('example.com', 80)",
            "socket.create_server(('127.0.0.1', 0)); return 'listens'",
        ]
        for body in bodies:
            ran = run(
                outcome(body),
                "assert attempt() in ('PermissionError', 'OSError', 'gaierror', 'ConnectionRefusedError')",
            )
            assert ran.share == 1, (body, ran)


SYSCALLS = {
    "ptrace": "libc.ptrace(16, 1, 0, 0)",
    "unshare": "libc.unshare(0x10000000)",
    "mount": "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
    "setns": "libc.setns(0, 0)",
    "memfd": "libc.memfd_create(b'x', 0)",
    "process_vm_readv": "libc.process_vm_readv(1, None, 0, None, 0, 0)",
    "bpf": "libc.syscall(321 if os.uname().machine == 'x86_64' else 280, 0, 0, 0)",
    "io_uring": "libc.syscall(425, 1, 0)",
    "keyctl": "libc.syscall(250 if os.uname().machine == 'x86_64' else 219, 0, 0)",
    "clone": "libc.syscall(56 if os.uname().machine == 'x86_64' else 220, 17, 0, 0, 0, 0)",
    "clone3": "libc.syscall(435, ctypes.create_string_buffer(88), 88)",
    "setuid": "libc.setuid(0)",
    "no death with the parent": "libc.prctl(1, 0, 0, 0, 0)",
    "execve": "libc.execve(b'/bin/sh', None, None)",
    "shmget": "libc.shmget(0, 1 << 20, 0o1777)",
    "chroot": "libc.chroot(b'/tmp')",
    "clock": "libc.clock_settime(0, ctypes.create_string_buffer(16))",
}


@pytest.mark.parametrize("name", SYSCALLS)
def test_system_calls_through_ctypes_lead_nowhere(run, name):
    body = f"libc = ctypes.CDLL(None, use_errno=True)\nreturn {SYSCALLS[name]}"
    ran = run(outcome(body), "assert attempt() == -1")
    assert ran.share == 1, ran


@pytest.mark.parametrize(
    "body",
    [
        "os.fork(); return 'forked'",
        "subprocess.run(['/bin/sh', '-c', 'true']); return 'ran'",
        "os.system('true') == 0 or 1 / 0; return 'ran'",
        "os.posix_spawn('/usr/bin/env', ['env'], {}); return 'ran'",
        "import multiprocessing as m; p = m.get_context('fork').Process(target=print); p.start(); return 'ran'",
        "os.execv(sys.executable, [sys.executable])",
        "import pty; pty.fork(); return 'forked'",
    ],
)
def test_no_processes_can_be_made(run, body):
    refused = ("PermissionError", "FileNotFoundError", "BlockingIOError", "ZeroDivisionError", "OSError")
    ran = run(outcome(body), f"assert attempt() in {refused}")
    assert ran.share == 1, ran


def test_other_processes_cannot_be_signalled(run):
    victim = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        pids = [victim.pid, os.getpid(), os.getppid()]
        code = "import os\ndef f(pid):\n    try:\n        os.kill(pid, 9)\n    except OSError as e:\n        return type(e).__name__"
        tests = "\n".join(f"assert f({pid}) == 'ProcessLookupError'" for pid in pids)
        assert run(code, tests).share == 1
        run(
            "import os\nfor pid in range(2, 60000):\n    try:\n        os.kill(pid, 9)\n    except OSError:\n        pass\nos.kill(-1, 9)",
            "assert 1",
        )
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


def sandboxed_uids():
    """Processes under uids that only sandboxes have, or in process namespaces other than ours."""
    found = []
    ours = os.readlink("/proc/self/ns/pid")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/ns/pid") != ours:
                found.append((pid, Path(f"/proc/{pid}/cmdline").read_bytes()[-200:]))
        except OSError:
            continue
    return [one for one in found if b"workers.sandbox" in one[1] and started_here(one[1])]


def started_here(command):
    """Whether this process's tests started it, and not a stack or a test beside them: see the fixture `run`."""
    last = command.rstrip(b"\0").split(b"\0")[-1]
    return round(float(last) * 1e9) % 10**7 == os.getpid() if last.replace(b".", b"").isdigit() else False


LIMITED = {
    "an endless loop": ("def f():\n    while True:\n        pass", "did not end"),
    "sleep": ("import time\ndef f(): time.sleep(60)", "did not end"),
    "stopping oneself": ("import os, signal, ctypes\ndef f():\n    signal.pause()", "did not end"),
    "a loop on import": ("while True: pass", "did not end"),
    "an uncatchable loop": (
        "def f():\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass", "did not end",
    ),
    "threads": (
        "import threading, time\ndef f():\n    try:\n        while True: threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "    except RuntimeError:\n        time.sleep(60)", "did not end",
    ),
    "a flood of output": ("import sys\ndef f():\n    while True:\n        sys.stdout.write('x' * 65536)", "printed more"),
    "a flood of errors": ("import os\ndef f():\n    while True:\n        os.write(2, b'x' * 65536)", "printed more"),
    "a stack that overflows": ("import ctypes\ndef f():\n    ctypes.string_at(0)", "was ended by SIGSEGV"),
    "abort": ("import os\ndef f(): os.abort()", "the code's process"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITED)
def test_what_hangs_or_floods_scores_nothing_within_its_time(run, name):
    code, said = LIMITED[name]
    begun = time.monotonic()
    ran = run(code, "assert 1\nassert f()", timeout_s=1)
    assert ran.share == 0
    assert said in ran.reason
    assert time.monotonic() - begun < 3
    assert sandboxed_uids() == []


MEMORY = {
    "8 GB at once": "def f(): return len(bytearray(8 << 30))",
    "little by little": "def f():\n    x = []\n    while True: x.append(bytearray(1 << 20))",
    "mapped": "import mmap\ndef f():\n    x = []\n    while True: x.append(mmap.mmap(-1, 1 << 24))",
    "a large number": "def f(): return 1 << (1 << 34)",
    "text": "def f(): return len('x' * (4 << 30))",
}


@pytest.mark.parametrize("name", MEMORY)
def test_memory_is_bounded(run, name):
    ran = run(MEMORY[name], "assert f() > 0", memory_mb=128)
    assert ran.share == 0
    assert "MemoryError" in ran.reason or "OSError" in ran.reason or "Cannot allocate" in ran.reason, ran.reason


def test_the_memory_limit_is_the_one_that_was_asked_for(run):
    code = "def f(n): return len(bytearray(n << 20)) >> 20"
    assert run(code, "assert f(90) == 90", memory_mb=128).share == 1
    assert run(code, "assert f(300) == 300", memory_mb=128).share == 0
    assert run(code, "assert f(300) == 300", memory_mb=512).share == 1


DISK = {
    "one file": "def f():\n    with open('a', 'wb') as a:\n        while True: a.write(bytes(1 << 20))",
    "many": "def f():\n    for i in range(10 ** 6):\n        with open(f'a{i}', 'wb') as a: a.write(bytes(1 << 20))",
    "inodes": "import os\ndef f():\n    for i in range(10 ** 6): os.mkdir(f'd{i}')",
    "links": "import os\ndef f():\n    for i in range(10 ** 6): os.symlink('x', f'l{i}')",
    "a hole": "def f():\n    with open('a', 'wb') as a: a.truncate(10 << 30)\n    raise OSError('made a hole, and ' + open('b').read())",
    "descriptors": "def f():\n    x = []\n    while True: x.append(open('/dev/null'))",
}


@pytest.mark.parametrize("name", DISK)
def test_disk_inodes_and_descriptors_are_bounded(run, name):
    ran = run(DISK[name], "assert f()", memory_mb=256, timeout_s=10)
    assert ran.share == 0
    assert "OSError" in ran.reason or "FileTooLarge" in ran.reason or "SIGXFSZ" in ran.reason, ran.reason


def test_a_launcher_that_is_killed_leaves_nobody_behind(sandbox):
    """The worker dies, or kills a run: with the launcher everything ends, also code that would rather stay."""
    code = "import ctypes, time\nctypes.CDLL(None).prctl(1, 0, 0, 0, 0)\nwhile True: time.sleep(1)"
    script = (
        "import sys, threading, time, os\n"
        "from workers.sandbox.run import Sandbox, Limits\n"
        "s = Sandbox()\n"
        f"threading.Thread(target=s.run_tests, args=({code!r}, 'assert 1', Limits(128, {60 + os.getpid() * 1e-9!r})), daemon=True).start()\n"
        "while not s._running: time.sleep(0.01)\n"
        "time.sleep(0.5)\nprint(next(iter(s._running)).pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    for how in ("worker", "launcher"):
        worker = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        )
        launcher = int(worker.stdout.readline())
        assert len(sandboxed_uids()) == 2
        os.kill(worker.pid if how == "worker" else launcher, signal.SIGKILL)
        deadline = time.monotonic() + 5
        while sandboxed_uids() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert sandboxed_uids() == []
        worker.kill()
        worker.stdin.close()
        worker.stdout.close()
        worker.wait()


def test_many_at_once_do_not_disturb_each_other(sandbox):
    """Process limits count by uid, and every run has one of its own."""
    from concurrent.futures import ThreadPoolExecutor

    code = (
        "import threading, time\ndef f():\n    made = [threading.Thread(target=time.sleep, args=(0.3,)) for _ in range(20)]\n"
        "    [t.start() for t in made]\n    [t.join() for t in made]\n    return len(made)"
    )
    with ThreadPoolExecutor(6) as pool:
        ran = list(pool.map(lambda _: sandbox.run_tests(code, "assert f() == 20", Limits(256, 20)), range(6)))
    assert [one.share for one in ran] == [1.0] * 6


def test_the_author_is_confined_too(sandbox, bait):
    assert sandbox.run_tests("", f"import os\nassert not os.path.exists({str(bait)!r})").share == 1
    source = f"def grade(sample, item):\n    import os\n    return float(os.path.exists({str(bait)!r}))"
    assert sandbox.run_grader(source, {"output_text": "", "output_json": None}, {}) == 0.0


def test_runs_share_nothing(run):
    code = "import os\ndef f():\n    found = os.listdir('/tmp')\n    open('/tmp/left', 'w').close()\n    return found"
    assert [run(code, "assert f() == []").share for _ in range(2)] == [1, 1]


def test_an_ordinary_user_has_the_same_walls():
    """With user namespaces no root is needed; the interpreter must be one that everybody may run."""
    python = next((p for p in ("/usr/bin/python3", "/usr/local/bin/python3") if os.access(p, os.X_OK)), None)
    if os.geteuid() != 0 or python is None:
        pytest.skip("the rest of this suite has run as an ordinary user, or there is no Python for one")
    said = subprocess.run(
        [python, "-B", "-c", "import os, sys; os.setgid(65534); os.setuid(65534)\n"
         f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
         "from workers.sandbox.check import prove\nfrom workers.sandbox.run import Sandbox\nprint(prove(Sandbox()).faults)"],
        capture_output=True, text=True, cwd="/",
    )  # fmt: skip
    if "unshare" in said.stdout or "PermissionError" in said.stderr:
        pytest.skip(f"no user namespaces for ordinary users here: {said.stdout}{said.stderr[-200:]}")
    assert said.stdout.strip() == "[]", said


def test_the_name_of_no_backend_is_taken_on_trust():
    from workers.sandbox.check import prove

    found = prove(Sandbox("bubblewrap", "/bin/false"))
    assert found.faults
