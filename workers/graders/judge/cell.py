"""A judged cell: one question per vote, and the cell that the votes make."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from service.domain.grade import Cell
from service.domain.grader import JudgeGrader
from service.domain.judge import Confidence
from service.domain.rubric import Criterion
from service.domain.scoring import mean, unbiased_std
from workers.graders.judge.client import Endpoint, Reply
from workers.graders.judge.prompt import messages_for
from workers.graders.judge.reply import Failure, Verdict, read_reply


async def grade_cell(
    endpoint: Endpoint,
    criterion: Criterion,
    *,
    judge_id: str,
    revision: int,
    guidelines: str,
    prompt: Mapping[str, Any],
    text: str,
) -> Cell:
    """Ask for the criterion's votes on one text. Never raises for what a judge or its endpoint does."""
    grader = criterion.grader
    assert isinstance(grader, JudgeGrader)
    config = endpoint.config
    votes = grader.votes or config.votes

    async def vote() -> tuple[Verdict | Failure, Reply]:
        nonce = secrets.token_hex(8)
        messages = messages_for(
            [criterion], guidelines=guidelines, system=config.prompt.system, prompt=prompt, answer=text, nonce=nonce
        )
        reply = await endpoint.ask(messages)
        if reply.text is None:
            return Failure(reply.status, reply.reason or reply.status), reply
        return read_reply(reply.text, nonce, [criterion])[criterion.key], reply

    asked = await asyncio.gather(*(vote() for _ in range(votes)))
    replies = [reply for _, reply in asked]
    return Cell(
        criterion=criterion.key,
        audit=criterion.audit,
        grader="judge",
        judge=judge_id,
        revision=revision,
        fingerprint=config.fingerprint,
        attempts=sum(reply.attempts for reply in replies),
        latency_ms=max(reply.latency_ms for reply in replies),
        tokens_in=sum(reply.tokens_in for reply in replies),
        tokens_out=sum(reply.tokens_out for reply in replies),
        votes=votes,
        **combine([outcome for outcome, _ in asked], grader.confidence or config.confidence),
    )


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
