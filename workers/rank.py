"""One of a job's processes: `workers.rank SOCKET PARENT JOB FENCE`, started by torchrun's agent in `workers.launch`.

Rank 0 is the attempt as a single process runs it, with a team behind it. The others build the same models and follow; they know
neither the database nor the supervisor, and die with the process that started them.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
import traceback

from service.config import Settings
from service.lifeline import die_with_parent
from workers.channel import ChildEnd
from workers.child import Attempt, classify, preload


def main() -> None:
    """Run the attempt, or follow the one that does."""
    path, parent, job_id, fence = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    die_with_parent(signal.SIGKILL, parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable(sys.stderr)
    faulthandler.register(signal.SIGUSR1, sys.stderr)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    channel = ChildEnd(connection.makefile("rb"), os.dup(connection.fileno()))
    rank = int(os.environ["RANK"])
    channel.send({"type": "rank", "rank": rank, "pid": os.getpid()})
    channel.follow(on_gone=lambda: os._exit(1))
    preload()
    from workers.training.team import Team

    if rank == 0:
        team = Team()
        outcome = Attempt(Settings(), channel, job_id, fence, team=team).run()
        sys.stdout.flush()
        channel.send(outcome)
        if outcome["outcome"] == "failed":
            os._exit(1)  # the others may be anywhere; they end with it
        team.tell({"do": "end"})
        os._exit(0)
    try:
        from workers.trained import follow_leader

        follow_leader(Team())
    except Exception as error:
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        code, message = classify(error)
        failed = {"outcome": "failed", "code": code, "message": f"process {rank}: {message}"}
        channel.send({"type": "ended", **failed})
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main()
