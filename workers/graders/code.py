"""Criteria that run code: an author's tests on a completion's code, and an author's own grader. In a sandbox, or not at all.

What the code does wrong is a score of 0 with its reason; what the tests' author, the grader's source or the sandbox does wrong is a
null (api.md "Statuses").
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import platform
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from service.domain.base import canonical_json
from service.domain.code import code_in, is_template
from service.domain.grade import Cell, CellStatus
from service.domain.grader import PythonGrader, UnitTestsGrader
from service.domain.rubric import Criterion
from service.domain.template import TemplateError, render
from workers.graders.judge.cache_key import digest
from workers.graders.steps import grade_steps
from workers.sandbox.check import Check, check
from workers.sandbox.run import Limits, Sandbox, SandboxFault

log = logging.getLogger(__name__)

KEY_VERSION = 1
"""Raise it when the same tests may come to another share: cells from before are not found any more."""


def code_key(criterion: Criterion, prompt: Mapping[str, Any], text: str) -> bytes:
    """What a cell depends on, as one hash: how it is graded, what is run on what, and the Python that runs it."""
    own = criterion.model_dump(mode="json", include={"grader", "scope", "step_separator", "step_pooling"})
    return digest("code", KEY_VERSION, platform.python_version(), own, *_read(criterion, prompt, text))


def _read(criterion: Criterion, prompt: Mapping[str, Any], text: str) -> list[Any]:
    """What of a prompt and a completion is looked at."""
    if isinstance(criterion.grader, UnitTestsGrader):
        try:
            return [_tests_of(criterion.grader, prompt), code_in(text)]
        except TemplateError as error:
            return [str(error)]
    return [_item(prompt), text]


def _item(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """The row as an author's grader sees it: without its id, which says nothing of it."""
    return {name: value for name, value in prompt.items() if name != "id"}


def grade_code(criterion: Criterion, prompt: Mapping[str, Any], text: str, found: Check) -> tuple[Cell, bool]:
    """The cell, and whether it would come out the same again: what ran out of time may not."""
    lasting = True

    def grade(part: str) -> Cell:
        nonlocal lasting
        cell, same = _grade(criterion, prompt, part, found)
        lasting = lasting and same
        return cell

    cell = grade_steps(criterion, text, lambda step: grade(step.text)) if criterion.scope == "step" else grade(text)
    return cell, lasting and cell.status == "ok"


def _grade(criterion: Criterion, prompt: Mapping[str, Any], text: str, found: Check) -> tuple[Cell, bool]:
    if found.sandbox is None:
        return _null(criterion, "sandbox_unavailable", f"no code is run on this worker: {found.line}"), False
    grader = criterion.grader
    try:
        if isinstance(grader, UnitTestsGrader):
            return _run_tests(criterion, grader, prompt, text, found.sandbox)
        assert isinstance(grader, PythonGrader)
        return _run_grader(criterion, grader, prompt, text, found.sandbox)
    except SandboxFault as fault:
        return _null(criterion, "sandbox_error", str(fault)), False
    except OSError as error:
        return _null(criterion, "sandbox_error", f"the sandbox did not start: {error}"), False


def _run_tests(
    criterion: Criterion, grader: UnitTestsGrader, prompt: Mapping[str, Any], text: str, sandbox: Sandbox
) -> tuple[Cell, bool]:
    try:
        tests = _tests_of(grader, prompt)
    except TemplateError as error:
        return _null(criterion, "infra_error", str(error)), False
    ran = sandbox.run_tests(code_in(text), tests, Limits(grader.memory_mb, grader.timeout_s))
    return _scored(criterion, ran.share, ran.reason), not ran.timed_out


def _tests_of(grader: UnitTestsGrader, prompt: Mapping[str, Any]) -> str:
    """The tests; those of a row may be a list of texts."""
    if not is_template(grader.tests):
        return grader.tests
    found = render(grader.tests.strip(), prompt, "")
    try:
        listed = json.loads(found)
    except ValueError:
        return found
    return "\n".join(listed) if isinstance(listed, list) and all(isinstance(line, str) for line in listed) else found


def _run_grader(
    criterion: Criterion, grader: PythonGrader, prompt: Mapping[str, Any], text: str, sandbox: Sandbox
) -> tuple[Cell, bool]:
    item = json.loads(canonical_json(_item(prompt)))
    gave = sandbox.run_grader(
        grader.source,
        {"output_text": text, "output_json": _json(text)},
        item,
        Limits(grader.memory_mb, grader.timeout_s),
    )
    if isinstance(gave, str):
        return _null(criterion, "invalid_score", gave), False
    return _scored(criterion, gave, None), True


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _scored(criterion: Criterion, score: float, reason: str | None) -> Cell:
    return Cell(
        criterion=criterion.key,
        status="ok",
        score=score,
        confidence=1.0,
        confidence_source="verifier",
        reason=reason,
        grader=criterion.grader.type,
        audit=criterion.audit,
    )


def _null(criterion: Criterion, status: CellStatus, reason: str) -> Cell:
    return Cell(
        criterion=criterion.key, status=status, reason=reason, grader=criterion.grader.type, audit=criterion.audit
    )


class CodeRoom:
    """A worker's sandboxes: `places` at once, behind the backend that has proved itself when the worker started."""

    def __init__(self, places: int | None = None, look: Callable[[], Check] = check) -> None:
        self._pool = ThreadPoolExecutor(places or os.cpu_count() or 1, thread_name_prefix="sandbox")
        self._check = self._pool.submit(self._look, look)

    @staticmethod
    def _look(look: Callable[[], Check]) -> Check:
        try:
            found = look()
        except Exception as error:  # what cannot be checked is not used
            found = Check(None, f"sandbox: none; the self-check failed: {type(error).__name__}: {error}")
        log.log(logging.INFO if found.sandbox else logging.WARNING, "%s", found.line)
        return found

    async def grade(self, criterion: Criterion, prompt: Mapping[str, Any], text: str) -> tuple[Cell, bool]:
        """As `grade_code`, when a place is free."""
        found = await asyncio.wrap_future(self._check)
        work = partial(grade_code, criterion, prompt, text, found)
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def close(self) -> None:
        """End what runs."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._check.done() and not self._check.cancelled() and self._check.result().sandbox is not None:
            self._check.result().sandbox.kill()  # type: ignore[union-attr]
