"""The embedded Valkey: a broker on loopback with a password, its log kept so that a restart loses little."""

from __future__ import annotations

import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from service.local.account import Account
from service.local.errors import StackError
from service.local.processes import Program


@dataclass(frozen=True, slots=True)
class Valkey:
    """A server at `port`; its files lie in `folder`."""

    server: Path
    folder: Path
    port: int
    account: Account
    password: str

    def program(self) -> Program:
        """How the supervisor runs it; the password stands in a private file, not in the process list."""
        self.account.own_folder(self.folder)
        settings = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self.password}",
            f"dir {self.folder}",
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
            "loglevel warning",
        ]
        conf = self.account.own_file(self.folder / "valkey.conf", "\n".join(settings) + "\n")
        return Program(
            role="valkey",
            argv=[str(self.server), str(conf)],
            account=self.account,
            death_signal=signal.SIGKILL,
            stop_signal=signal.SIGTERM,
            echo=False,
        )

    @property
    def url(self) -> str:
        """The broker's address, password included."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def wait_ready(self, timeout_s: float = 30) -> None:
        """Until it answers PING; it refuses while it reads its log."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
                    connection.sendall(f"AUTH {self.password}\r\nPING\r\nQUIT\r\n".encode())
                    answer = b""
                    while piece := connection.recv(4096):
                        answer += piece
                    if b"+PONG" in answer:
                        return
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise StackError(f"Valkey did not answer within {timeout_s:.0f} s")
            time.sleep(0.05)
