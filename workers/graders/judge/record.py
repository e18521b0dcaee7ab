"""What was replied to one question, collected while its cells are made: every vote, every attempt, every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from service.domain.ids import new_id
from workers.graders.judge.abilities import ReplyFormat
from workers.graders.judge.client import Reply
from workers.graders.judge.reply import Failure, Reading, Verdict


@dataclass(slots=True)
class Record:
    """Everything that came to a chunk of criteria on one completion; its cells name it by its id. `votes`: `service.domain.replies`."""

    judge_id: str
    revision: int
    id: str = field(default_factory=lambda: new_id("replies"))
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    votes: list[dict[str, Any]] = field(default_factory=list)

    def add(self, asked: Sequence[tuple[Reading, Reply, ReplyFormat]], step: int | None) -> None:
        """The votes of one question."""
        self.votes += [
            {
                "vote": number,
                "step": step,
                "reply_format": reply_format,
                "attempts": [
                    {"status": heard.status, "http_status": heard.http_status, "finish_reason": heard.finish_reason,
                     "reason": heard.reason, "text": heard.text}
                    for heard in reply.heard
                ],
                "readings": {key: _read(outcome) for key, outcome in reading.outcomes.items()},
            }
            for number, (reading, reply, reply_format) in enumerate(asked, 1)
        ]  # fmt: skip


OnRecord = Callable[[Record], None]


def _read(outcome: Verdict | Failure) -> dict[str, Any]:
    if isinstance(outcome, Verdict):
        return {"status": "ok", "score": outcome.score, "confidence": outcome.confidence, "reason": outcome.note}
    return {"status": outcome.status, "reason": outcome.reason}
