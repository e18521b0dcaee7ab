"""Judged cells: which criteria share a question, one question per vote, and the cells that the votes make."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from service.domain.grade import Cell
from service.domain.grader import JudgeGrader
from service.domain.judge import Confidence, JudgeConfig
from service.domain.rubric import Criterion
from service.domain.scoring import mean, unbiased_std
from workers.graders.judge.client import Reply
from workers.graders.judge.prompt import messages_for
from workers.graders.judge.reply import Failure, Reading, Verdict, read_reply


class Asker(Protocol):
    """Who can be asked: an endpoint, or a model that this service runs itself."""

    config: JudgeConfig

    async def ask(self, messages: list[dict[str, str]], options: Mapping[str, Any] | None = None) -> Reply:
        """One question and its answer; never raises for what a judge does."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is graded, and by whom."""

    judge_id: str
    revision: int
    guidelines: str
    prompt: Mapping[str, Any]
    text: str


async def grade_completion(
    endpoint: Asker,
    criteria: Sequence[Criterion],
    *,
    judge_id: str,
    revision: int,
    guidelines: str,
    prompt: Mapping[str, Any],
    text: str,
    on_cell: Callable[[Cell], None] | None = None,
) -> list[Cell]:
    """The cells of one completion on those of its criteria that one judge grades, in their order.

    At most `batch` criteria share a question, and a chunk of criteria is asked once for each vote. `on_cell` gets every cell
    as soon as it is there, so that what is known can be stored while other questions are still out. Never raises for what a
    judge or its endpoint does.
    """
    subject = Subject(judge_id, revision, guidelines, prompt, text)
    found: dict[str, Cell] = {}

    async def grade(chunk: list[Criterion], votes: int) -> None:
        for cell in await _grade_chunk(endpoint, chunk, votes, subject):
            found[cell.criterion] = cell
            if on_cell is not None:
                on_cell(cell)

    async with asyncio.TaskGroup() as group:
        for votes, chunk in chunks(criteria, endpoint.config):
            group.create_task(grade(chunk, votes))
    return [found[criterion.key] for criterion in criteria]


def chunks(criteria: Sequence[Criterion], config: JudgeConfig) -> list[tuple[int, list[Criterion]]]:
    """Which criteria share a question, with how often it is asked: those with equal votes, at most `batch` of them."""
    by_votes: dict[int, list[Criterion]] = {}
    for criterion in criteria:
        by_votes.setdefault(_grader(criterion).votes or config.votes, []).append(criterion)
    return [
        (votes, alike[start : start + config.batch])
        for votes, alike in by_votes.items()
        for start in range(0, len(alike), config.batch)
    ]


def _grader(criterion: Criterion) -> JudgeGrader:
    assert isinstance(criterion.grader, JudgeGrader)
    return criterion.grader


async def _grade_chunk(endpoint: Asker, chunk: Sequence[Criterion], votes: int, subject: Subject) -> list[Cell]:
    """One question for each vote. What they cost is divided among the cells, so that sums over cells are sums over calls."""
    config = endpoint.config

    async def vote() -> tuple[Reading, Reply]:
        nonce = secrets.token_hex(8)
        messages = messages_for(
            chunk,
            config=config,
            guidelines=subject.guidelines,
            prompt=subject.prompt,
            answer=subject.text,
            nonce=nonce,
        )
        reply = await endpoint.ask(messages)
        if reply.text is None:
            failure = Failure(reply.status, reply.reason or reply.status)
            return Reading({criterion.key: failure for criterion in chunk}), reply
        return read_reply(reply.text, nonce, chunk), reply

    asked = await asyncio.gather(*(vote() for _ in range(votes)))
    replies = [reply for _, reply in asked]
    tokens_in = split(sum(reply.tokens_in for reply in replies), len(chunk))
    tokens_out = split(sum(reply.tokens_out for reply in replies), len(chunk))
    retries = split(sum(reply.attempts for reply in replies) - votes, len(chunk))
    return [
        Cell(
            criterion=criterion.key,
            audit=criterion.audit,
            grader="judge",
            judge=subject.judge_id,
            revision=subject.revision,
            fingerprint=config.fingerprint,
            attempts=votes + retries[position],
            latency_ms=max(reply.latency_ms for reply in replies),
            tokens_in=tokens_in[position],
            tokens_out=tokens_out[position],
            votes=votes,
            reply_format="text",
            unasked=0 if position else sum(reading.unasked for reading, _ in asked),
            **combine([reading.outcomes[criterion.key] for reading, _ in asked], _confidence(criterion, config)),
        )
        for position, criterion in enumerate(chunk)
    ]


def _confidence(criterion: Criterion, config: JudgeConfig) -> Confidence:
    return _grader(criterion).confidence or config.confidence


def split(total: int, parts: int) -> list[int]:
    """A whole number in whole parts that differ by at most one; the first are the larger ones."""
    return [total // parts + (position < total % parts) for position in range(parts)]


def combine(outcomes: Sequence[Verdict | Failure], confidence: Confidence) -> dict[str, Any]:
    """Score, confidence and reasoning of a cell from its votes (api.md).

    The score is the mean of the ok votes, if more than half are; else the cell fails as the first failed vote did.
    `votes`: confidence = max(0, 1 − 2·sd), null for a single vote.
    """
    verdicts = [outcome for outcome in outcomes if isinstance(outcome, Verdict)]
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    reasoning = "\n\n".join(dict.fromkeys(x.reasoning for x in outcomes if x.reasoning)) or None
    if 2 * len(verdicts) <= len(outcomes):
        return {"status": failures[0].status, "reason": failures[0].reason, "reasoning": reasoning}
    scores = [verdict.score for verdict in verdicts]
    spread = unbiased_std(scores) if len(scores) > 1 else None
    stated = [verdict.confidence for verdict in verdicts if verdict.confidence is not None]
    sure: float | None = None
    if confidence == "verbal" and stated:
        sure = mean(stated)
    elif confidence == "votes" and spread is not None:
        sure = max(0.0, 1.0 - 2.0 * spread)
    return {
        "status": "ok",
        "score": mean(scores),
        "reasoning": reasoning,
        "confidence": sure,
        "confidence_source": confidence if sure is not None else None,
        "vote_variance": spread**2 if spread is not None else None,
    }
