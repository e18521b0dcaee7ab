"""One grading, from its claim to its end: groups are verified and asked about ahead, and finished as answers come.

Everything that is finished stands; who takes the grading up after a death goes on with the groups that are not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from service.domain.grader import JudgeGrader, runs_code
from service.domain.summary import Summary
from workers.gradings.expand import expand
from workers.gradings.groups import GroupWork, prepare
from workers.gradings.report import count_stored, count_texts
from workers.gradings.results import Results
from workers.gradings.rubrics import Rubrics
from workers.runs.gradings import HeldGrading

POLL_S = 0.5
PROGRESS_S = 1.0
FINISH_CELLS = 4000
"""Finished groups are written together up to this many cells."""
TAKE_TEXTS = 500
"""Groups are taken up together to about this many texts, fewer if judges are asked about them."""


@dataclass(slots=True)
class Grader:
    """Grades what `held` names. `window` is how many judged cells may be open: more would only stand before other people's."""

    held: HeldGrading
    rubrics: Rubrics
    results: Results
    window: int
    priority: int
    check: Callable[[], None]
    wait: Callable[[float], None]
    asked: Callable[[], None]
    summary: Summary = field(default_factory=Summary)
    open: dict[int, GroupWork] = field(default_factory=dict)
    done: int = 0
    failed: int = 0
    _taken: int = -1
    _shown_at: float = 0.0

    @property
    def _per_text(self) -> int:
        """About how many cells grading workers are asked for a text."""
        judged = [
            sum(isinstance(c.grader, JudgeGrader) or runs_code(c.grader) for c in by.content.criteria)
            for by in self.rubrics.all_pinned
        ]
        return max(1, *judged)

    def run(self) -> None:
        """Until every group is finished."""
        expand(self.held, self.rubrics, self.check)
        if self.held.fence > 1:
            self.done, self.failed = count_stored(self.held, self.rubrics, self.summary)
        self._take_up(self.held.groups("asked"), asked=True)
        while True:
            self.check()
            more = self._ask_more()
            if self._finish_ready():
                continue
            if not self.open and not more:
                return
            self._show()
            self.wait(POLL_S)

    def _ask_more(self) -> bool:
        """Take up the next groups while the window has room; whether any are left."""
        while (room := self.window - sum(group.asked_cells for group in self.open.values())) > 0:
            waiting = self.held.groups("waiting", self._taken, TAKE_TEXTS)
            if not waiting:
                return False
            self._take_up(_first(waiting, max(1, min(TAKE_TEXTS, room // self._per_text))), asked=False)
            self._finish([group for group in self.open.values() if not group.questions])
        return True

    def _take_up(self, groups: list[tuple[int, int]], *, asked: bool) -> None:
        numbers = [number for number, _ in groups]
        if not numbers:
            return
        if not asked:
            self._taken = numbers[-1]
        prepared = prepare(self.held.texts_of(numbers), self.rubrics)
        self.open.update({group.number: group for group in prepared})
        questions = [question for group in prepared for question, _ in group.questions]
        if questions and not asked:
            wanted = [group.number for group in prepared if group.questions]
            self.held.ask(wanted, questions, self.priority)
            self.asked()

    def _finish_ready(self) -> bool:
        """Finish the groups whose judges have all answered; whether there were any."""
        if not self.open:
            return False
        undone = self.held.undone()
        ready = [group for number, group in sorted(self.open.items()) if number not in undone]
        if not ready:
            return False
        keys = [question.key for group in ready for question, _ in group.questions]
        answers = self.held.answers(keys)
        for group in ready:
            group.take(answers)
        self._finish(ready)
        return True

    def _finish(self, groups: list[GroupWork]) -> None:
        part: list[GroupWork] = []
        for group in groups:
            part.append(group)
            if sum(g.cell_count for g in part) >= FINISH_CELLS or group is groups[-1]:
                self.done += sum(g.cell_count for g in part)
                self.failed += sum(g.failed_count for g in part)
                self.results.add(part, done=self.done, failed=self.failed)
                for finished in part:
                    count_texts(self.summary, finished)
                    del self.open[finished.number]
                part = []
                self.check()

    def _show(self) -> None:
        if time.monotonic() - self._shown_at > PROGRESS_S:
            self.held.show_progress(self.done, self.failed)
            self._shown_at = time.monotonic()


def _first(groups: list[tuple[int, int]], texts: int) -> list[tuple[int, int]]:
    """The first groups with together about so many texts, and at least one."""
    taken: list[tuple[int, int]] = []
    for number, size in groups:
        if taken and sum(s for _, s in taken) + size > texts:
            break
        taken.append((number, size))
    return taken
