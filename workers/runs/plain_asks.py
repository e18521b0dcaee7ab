"""The plain questions of claimed batches."""

from __future__ import annotations

from dataclasses import dataclass

from service.domain.asked import Messages
from workers.runs.cell_work import PinnedJudge, Work


@dataclass(frozen=True, slots=True)
class PlainAsk:
    """One question of a batch, and who is asked."""

    work: Work
    index: int
    judge: PinnedJudge
    messages: Messages


def plain_asks(work: Work) -> list[PlainAsk]:
    """What of a batch has no answer yet."""
    assert work.questions is not None
    return [PlainAsk(work, index, work.judges[work.asked], work.questions[index]) for index, _ in work.todo]
