"""`python -m workers.sandbox`: one line on whether this machine can grade code, for people and for `grape doctor`."""

import sys

from workers.sandbox.check import check

found = check()
sys.stdout.write(found.line + "\n")
sys.exit(found.sandbox is None)
