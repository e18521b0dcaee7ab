"""Judged cells: which criteria share a question, one question per vote, and the cells that the votes make."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from service.domain.base import content_hash
from service.domain.grade import Cell
from service.domain.grader import JudgeGrader
from service.domain.judge import Confidence, JudgeConfig
from service.domain.rubric import Criterion
from service.domain.scoring import mean, unbiased_std
from workers.graders.judge.abilities import ReplyFormat
from workers.graders.judge.asking import Asker, ask_within
from workers.graders.judge.client import Reply
from workers.graders.judge.expectation import expectation
from workers.graders.judge.prompt import Step, messages_for
from workers.graders.judge.record import OnRecord, Record
from workers.graders.judge.reply import Failure, Reading, Verdict, read_reply, value_place
from workers.graders.steps import CannotCut, cut, cut_failed, pooled


@dataclass(frozen=True, slots=True)
class Subject:
    """What is graded, and by whom: a whole completion, or one step of it. `afresh`: whatever was said before."""

    judge_id: str
    revision: int
    guidelines: str
    prompt: Mapping[str, Any]
    text: str
    step: Step | None = None
    record: Record | None = None
    afresh: bool = False


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
    on_record: OnRecord | None = None,
    afresh: bool = False,
) -> list[Cell]:
    """The cells of one completion on those of its criteria that one judge grades, in their order.

    At most `batch` criteria share a question, and a chunk of criteria is asked once for each vote. `on_cell` gets every cell
    as soon as it is there, so that what is known can be stored while other questions are still out; `on_record`, before them,
    what was replied, if anybody wants to keep it. `afresh`: a judge that answers equal questions alike is asked others than it was
    when it first graded. Never raises for what a judge or its endpoint does.
    """
    subject = Subject(judge_id, revision, guidelines, prompt, text, afresh=afresh)
    found: dict[str, Cell] = {}

    async def grade(chunk: list[Criterion], votes: int) -> None:
        how = _grade_steps if chunk[0].scope == "step" else _grade_chunk
        record = Record(judge_id, revision) if on_record is not None else None
        cells = await how(endpoint, chunk, votes, replace(subject, record=record))
        kept = record.id if record is not None and record.votes else None
        if on_record is not None and record is not None and kept is not None:
            on_record(record)
        if kept is not None:
            cells = [cell.model_copy(update={"replies": kept}) for cell in cells]
        for cell in cells:
            found[cell.criterion] = cell
            if on_cell is not None:
                on_cell(cell)

    async with asyncio.TaskGroup() as group:
        for votes, chunk in chunks(criteria, endpoint.config):
            group.create_task(grade(chunk, votes))
    return [found[criterion.key] for criterion in criteria]


def chunks(criteria: Sequence[Criterion], config: JudgeConfig) -> list[tuple[int, list[Criterion]]]:
    """Which criteria share a question, with how often it is asked: those with equal votes, at most `batch` of them.

    A criterion whose confidence is read off the tokens of its verdict stands alone, and step criteria share questions only if
    they cut completions alike.
    """
    alike: dict[tuple[int, str | None, str, str | None], list[Criterion]] = {}
    for criterion in criteria:
        alone = criterion.key if _confidence(criterion, config) == "logprob" else None
        votes = _grader(criterion).votes or config.votes
        alike.setdefault((votes, alone, criterion.scope, criterion.step_separator), []).append(criterion)
    return [
        (votes, together[start : start + config.batch])
        for (votes, *_), together in alike.items()
        for start in range(0, len(together), config.batch)
    ]


def _grader(criterion: Criterion) -> JudgeGrader:
    assert isinstance(criterion.grader, JudgeGrader)
    return criterion.grader


@dataclass(frozen=True, slots=True)
class Vote:
    """One question's reply, as it was read."""

    reading: Reading
    reply: Reply
    reply_format: ReplyFormat


async def _vote(endpoint: Asker, chunk: Sequence[Criterion], subject: Subject, number: int) -> Vote:
    nonce = _nonce(endpoint, chunk, subject, number) if endpoint.abilities.repeatable else secrets.token_hex(8)
    messages = messages_for(
        chunk,
        config=endpoint.config,
        guidelines=subject.guidelines,
        prompt=subject.prompt,
        answer=subject.text,
        nonce=nonce,
        step=subject.step,
    )
    by_tokens = _confidence(chunk[0], endpoint.config) == "logprob"
    reply, reply_format = await ask_within(endpoint, messages, chunk, logprobs=by_tokens)
    if reply.text is None:
        failure = Failure(reply.status, reply.reason or reply.status)
        return Vote(Reading({criterion.key: failure for criterion in chunk}), reply, reply_format)
    reading = read_reply(reply.text, nonce, chunk)
    if by_tokens:
        reading = _with_expectations(reading, chunk, reply)
    return Vote(reading, reply, reply_format)


def _nonce(endpoint: Asker, chunk: Sequence[Criterion], subject: Subject, number: int) -> str:
    """As good as drawn: no text can hold what is made of the whole text."""
    step = subject.step.number if subject.step is not None else 0
    asked = [criterion.key for criterion in chunk]
    made_of = [
        endpoint.config.fingerprint,
        subject.prompt["messages"],
        subject.text,
        subject.guidelines,
        asked,
        step,
        number,
    ]
    return content_hash([*made_of, "afresh"] if subject.afresh else made_of)[:16]


def _with_expectations(reading: Reading, chunk: Sequence[Criterion], reply: Reply) -> Reading:
    """The reading with the scores and confidences that the tokens give, where they give any."""
    assert reply.text is not None
    outcomes = dict(reading.outcomes)
    for criterion in chunk:
        said = outcomes[criterion.key]
        if isinstance(said, Verdict):
            place = value_place(reply.text, reading.start, ["verdicts", reading.entries[criterion.key], "verdict"])
            assert place is not None
            found = expectation(criterion, reply.text, place, reply.logprobs)
            score = said.score if found.score is None else found.score
            note = f"no confidence: {found.reason}" if found.reason else None
            outcomes[criterion.key] = Verdict(score, found.confidence, said.reasoning, note)
    return replace(reading, outcomes=outcomes)


async def _grade_chunk(endpoint: Asker, chunk: Sequence[Criterion], votes: int, subject: Subject) -> list[Cell]:
    """One question for each vote. What they cost is divided among the cells, so that sums over cells are sums over calls."""
    config = endpoint.config
    asked = await asyncio.gather(*(_vote(endpoint, chunk, subject, number) for number in range(votes)))
    if subject.record is not None:
        step = subject.step.number if subject.step is not None else None
        subject.record.add([(vote.reading, vote.reply, vote.reply_format) for vote in asked], step)
    tokens_in = split(sum(vote.reply.tokens_in for vote in asked), len(chunk))
    tokens_out = split(sum(vote.reply.tokens_out for vote in asked), len(chunk))
    calls = sum(vote.reply.attempts for vote in asked)
    shares, retries = split(calls, len(chunk)), split(calls - votes, len(chunk))
    reply_format: ReplyFormat = "json_schema" if all(v.reply_format == "json_schema" for v in asked) else "text"
    return [
        Cell(
            criterion=criterion.key,
            audit=criterion.audit,
            grader="judge",
            judge=subject.judge_id,
            revision=subject.revision,
            fingerprint=fingerprint(config, reply_format),
            attempts=votes + retries[position],
            latency_ms=max(vote.reply.latency_ms for vote in asked),
            tokens_in=tokens_in[position],
            tokens_out=tokens_out[position],
            calls=shares[position],
            tokens_estimated=any(vote.reply.tokens_estimated for vote in asked),
            votes=votes,
            reply_format=reply_format,
            unasked=0 if position else sum(vote.reading.unasked for vote in asked),
            **combine([vote.reading.outcomes[criterion.key] for vote in asked], _confidence(criterion, config)),
        )
        for position, criterion in enumerate(chunk)
    ]


async def _grade_steps(endpoint: Asker, chunk: Sequence[Criterion], votes: int, subject: Subject) -> list[Cell]:
    """Every step is asked about by itself, with the steps before it for context; all of them at once."""
    try:
        steps = await asyncio.to_thread(cut, chunk[0], subject.text)
    except CannotCut as fault:
        who = {"judge": subject.judge_id, "revision": subject.revision, "fingerprint": endpoint.config.fingerprint}
        return [cut_failed(criterion, fault, attempts=0, **who) for criterion in chunk]
    by_step = await asyncio.gather(
        *(
            _grade_chunk(endpoint, chunk, votes, replace(subject, text=step.text, step=Step(step.before, number)))
            for number, step in enumerate(steps, 1)
        )
    )
    return [
        pooled(criterion, steps, [cells[position] for cells in by_step]) for position, criterion in enumerate(chunk)
    ]


def fingerprint(config: JudgeConfig, reply_format: ReplyFormat) -> str:
    """The judge's fingerprint; another one where replies were held to a schema."""
    return config.fingerprint if reply_format == "text" else content_hash([config.fingerprint, reply_format])[:16]


def _confidence(criterion: Criterion, config: JudgeConfig) -> Confidence:
    return _grader(criterion).confidence or config.confidence


def split(total: int, parts: int) -> list[int]:
    """A whole number in whole parts that differ by at most one; the first are the larger ones."""
    return [total // parts + (position < total % parts) for position in range(parts)]


def combine(outcomes: Sequence[Verdict | Failure], confidence: Confidence) -> dict[str, Any]:
    """Score, confidence and reasoning of a cell from its votes (api.md).

    The score is the mean of the ok votes, if more than half are; else the cell fails as the first failed vote did.
    `votes`: confidence = max(0, 1 − 2·sd), null for a single vote. `logprob`: the verdicts hold expectations already, and their
    mean confidence is the cell's, as with `verbal`.
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
    if confidence in ("verbal", "logprob") and stated:
        sure = mean(stated)
    elif confidence == "votes" and spread is not None:
        sure = max(0.0, 1.0 - 2.0 * spread)
    return {
        "status": "ok",
        "reason": None if sure is not None else _why_unsure(verdicts, confidence),
        "score": mean(scores),
        "reasoning": reasoning,
        "confidence": sure,
        "confidence_source": confidence if sure is not None else None,
        "vote_variance": spread**2 if spread is not None else None,
    }


def _why_unsure(verdicts: Sequence[Verdict], confidence: Confidence) -> str | None:
    """Why an ok cell has no confidence though one was wanted that the judge does not simply leave out."""
    if confidence == "votes":
        return "no confidence: a single vote agrees with nobody"
    return next((verdict.note for verdict in verdicts if verdict.note), None)
