"""What the fork server imports before its first child: everything that a job needs. Nobody else imports this module."""

from __future__ import annotations

import os
import signal

from service.lifeline import die_with_parent
from workers.child import preload

SERVER = os.getpid()
"""The fork server's process id, also in its children."""

die_with_parent(signal.SIGKILL, os.getppid())
preload()
