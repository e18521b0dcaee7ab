"""`python -m service.local`: what `grape up` runs."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from service.local.errors import StackError
from service.local.folder import DataFolder, default_folder
from service.local.stack import Stack


def main() -> int:
    """Start, wait, stop; 0 after a clean stop, 1 with one sentence otherwise."""
    parser = argparse.ArgumentParser(prog="grape up", description="Run the whole stack on this machine.")
    parser.add_argument("--data-dir", type=Path, default=default_folder(), help="where everything is kept")
    parser.add_argument("--port", type=int, default=8000, help="the API's port; 0 for any free one")
    parser.add_argument("--host", default="127.0.0.1", help="the address that the API listens on")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    options = parser.parse_args()
    stack = Stack(DataFolder(options.data_dir.expanduser().absolute()), options.host, options.port, options.quiet)
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stack.on_signal)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # the terminal was closed, and there is no `nohup`
        signal.signal(signal.SIGHUP, stack.on_signal)
    try:
        stack.start()
        stack.wait()
    except (StackError, OSError) as error:
        sys.stderr.write(f"grape up: {error}\n")
        return 1
    finally:
        stack.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
