"""What keeps a stack from starting, as one sentence that says what to do."""

from __future__ import annotations


class StackError(RuntimeError):
    """Printed without a traceback by `grape up`."""
