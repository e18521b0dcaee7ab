"""The process of an author's own grader: `grade(sample, item)`. It never runs the completion, which it has as text."""

from __future__ import annotations

import json
import os
import types
from typing import Any

from workers.sandbox.inside.exceptions import described
from workers.sandbox.inside.wire import read_all, write_all


def record_of(source: str, sample: Any, item: Any) -> dict[str, Any]:
    """`value`, in [0, 1]; `wrong`: what it gave in place of one; or `fault`."""
    names = types.ModuleType("grader").__dict__
    try:
        exec(compile(source, "grader.py", "exec", dont_inherit=True), names)  # noqa: S102
        grade = names.get("grade")
        if not callable(grade):
            return {"fault": "the source defines no function grade(sample, item)"}
        value = grade(sample, item)
    except BaseException as error:
        return {"fault": f"the grader's source failed: {described(error)}"[:1000]}
    if not isinstance(value, int | float):
        return {"wrong": f"grade() gave {type(value).__name__} and not a number"}
    if not 0 <= value <= 1:
        shown = repr(value) if isinstance(value, float) or abs(value) < 10**9 else "a number"
        return {"wrong": f"grade() gave {shown}, which is not in [0, 1]"}
    return {"value": float(value)}


def main(give: int, take: int) -> None:
    """Run the source that `give` brings; the record goes to `take`."""
    request = json.loads(read_all(give))
    os.close(give)
    record = record_of(request["source"], request["sample"], request["item"])
    write_all(take, json.dumps({**record, "nonce": request["nonce"]}).encode())
