"""One question to a judge's endpoint: bounded attempts, jittered backoff, Retry-After, a deadline over all of it."""

from __future__ import annotations

import asyncio
import email.utils
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from service.domain.grade import CellStatus
from service.domain.judge import JudgeConfig, JudgeLimits, JudgeSampling
from workers.graders.judge.abilities import Abilities
from workers.graders.judge.gate import EndpointHeld, Gate, LeaseLapsed, Pass
from workers.graders.judge.pace import most_late
from workers.graders.judge.purse import (
    FREE,
    UNCOUNTED,
    Permit,
    Purse,
    Tokens,
    guess_tokens,
    most_tokens,
    question_bytes,
)
from workers.graders.judge.terms import Terms

FINAL = (400, 401, 403, 404, 405, 413, 422)
"""Statuses that the same request will meet again."""

MAX_REPLY_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Heard:
    """What one attempt got back, word for word but for the endpoint's key: the reply, or what was said in place of one."""

    status: CellStatus
    http_status: int | None
    finish_reason: str | None
    reason: str | None
    text: str | None


@dataclass(slots=True)
class Reply:
    """The text of a reply, or the failure that the last attempt ended in; with what it cost either way."""

    text: str | None = None
    status: CellStatus = "ok"
    reason: str | None = None
    attempts: int = 0
    latency_ms: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_estimated: bool = False
    http_status: int | None = None
    logprobs: Sequence[Mapping[str, Any]] | None = None
    """The entries of `logprobs.content`, if they were asked for and given."""
    heard: list[Heard] = field(default_factory=list)
    """Every attempt, in order."""


UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
"""Failures before a byte of the request was written: nobody charges for these."""


@dataclass(slots=True)
class _Call:
    """A question, and what the last attempt at it has taken."""

    sampling: JudgeSampling
    messages: Sequence[Mapping[str, str]]
    options: Mapping[str, Any] | None
    took: Tokens | None = None
    """Null while nobody knows: an attempt that is given up is paid for too."""
    said: str | None = None
    finish: str | None = None

    def most(self) -> Tokens:
        """What an attempt may take."""
        return most_tokens(question_bytes(self.messages, self.options), len(self.messages), self.sampling)

    def guess(self, said: str | None) -> Tokens:
        """What an attempt has taken that was answered with this text (null: nobody waited for the end), if nobody says."""
        return guess_tokens(question_bytes(self.messages, self.options), len(self.messages), self.sampling, said)

    def settle(self, permit: Permit, reply: Reply) -> None:
        """Pay for the attempt, and keep what was heard."""
        took, self.took = self.took or self.guess(None), None
        permit.spend(took)
        reply.tokens_in += took.input
        reply.tokens_out += took.output
        reply.tokens_estimated |= took.estimated
        said, self.said = self.said, None
        reply.heard.append(Heard(reply.status, reply.http_status, self.finish, reply.reason, said))


@dataclass(slots=True)
class Endpoint:
    """A judge's endpoint as the grading worker uses it; the gate bounds what is in flight."""

    client: httpx.AsyncClient
    config: JudgeConfig
    limits: JudgeLimits
    api_key: str | None
    gate: Gate
    abilities: Abilities = field(default_factory=Abilities)
    purse: Purse = UNCOUNTED
    terms: Terms = field(init=False)
    _jitter: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        self.terms = Terms.of(self.limits)

    async def ask(self, messages: list[dict[str, str]], options: Mapping[str, Any] | None = None) -> Reply:
        """Ask until there is an answer, a final failure, or no attempt or time left.

        `options` are further fields of the request, e.g. `response_format`. The deadline runs from the first attempt: waiting
        for a slot is nobody's failure. A call that the endpoint told when to come again does not come before that. Every attempt
        is set aside in the purse before it is made.
        """
        reply = Reply()
        assert self.config.endpoint is not None
        body = {
            "model": self.config.endpoint.model, "messages": messages, **(options or {}), **self._sampling(),
        }  # fmt: skip
        tokens = sum(len(message["content"]) for message in messages) // 4 + (self.config.sampling.max_tokens or 0) // 4
        call = _Call(self.config.sampling, messages, options)
        deadline: float | None = None
        while True:
            permit = await self.purse.take(call.most)
            if isinstance(permit, str):
                return _without_budget(reply, permit)
            made = False
            try:
                async with self.gate.slot(
                    self.terms, tokens=tokens, again=reply.attempts > 0, patience_s=self._left(deadline)
                ) as slot:
                    deadline = deadline or slot.started + self.limits.deadline_s
                    if reply.attempts and self._left(deadline) < min(1.0, self.limits.timeout_s / 4):
                        return self._too_late(reply)
                    if not permit.valid:
                        continue
                    reply.attempts, made = reply.attempts + 1, True
                    wait = await self._attempt(body, reply, slot, self._left(deadline), call)
                    reply.latency_ms += (time.monotonic() - slot.started) * 1000
            except LeaseLapsed:  # nothing was sent
                reply.attempts, made = reply.attempts - 1, False
                continue
            except EndpointHeld as held:
                if reply.status == "ok":
                    reply.status, reply.reason = "rate_limited", str(held)
                wait = held.wait_s
            finally:
                if made:
                    call.settle(permit, reply)
                else:
                    permit.put_back()
            if wait is None or reply.attempts >= self.limits.max_attempts:
                return reply
            if wait >= self._left(deadline):
                return self._too_late(reply)
            await asyncio.sleep(wait)

    def _too_late(self, reply: Reply) -> Reply:
        reply.reason = f"{reply.reason}; the next attempt would be after the deadline of {self.limits.deadline_s:g} s"
        return reply

    def _left(self, deadline: float | None) -> float:
        return self.limits.deadline_s if deadline is None else max(0.0, deadline - time.monotonic())

    async def _attempt(self, body: dict[str, Any], reply: Reply, slot: Pass, left: float, call: _Call) -> float | None:
        """One request. Fills `reply`; returns the seconds to wait before another attempt, or null if there is none."""
        assert self.config.endpoint is not None
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        limit_s = max(0.001, min(self.limits.timeout_s, left))
        reply.http_status = call.finish = None
        try:
            async with asyncio.timeout(limit_s):
                answer = await self.client.post(
                    f"{self.config.endpoint.base_url}/chat/completions", json=body, headers=headers, timeout=limit_s
                )
        except (httpx.TimeoutException, TimeoutError) as error:
            call.took = FREE if isinstance(error, UNSENT) else None
            reply.status, reply.reason = "timeout", f"no answer within {limit_s:.3g} s"
            return self._backoff(reply.attempts)
        except httpx.HTTPError as error:
            if isinstance(error, UNSENT):
                call.took = FREE
            reply.status, reply.reason = "infra_error", f"{type(error).__name__}: {error}"
            return self._backoff(reply.attempts)
        reply.http_status, call.took = answer.status_code, None if answer.status_code == 200 else FREE
        if answer.status_code == 200:
            self.gate.answered()
            wait = self._read(answer, reply, call)
            call.took = call.took or call.guess(None)
            self.gate.used(slot, call.took.input + call.took.output)
            return wait
        call.said = self._body(answer)
        said = call.said[:300]
        if answer.status_code == 429:
            told = _retry_after(answer)
            self.gate.limited(slot, told)
            reply.status, reply.reason = "rate_limited", f"HTTP 429: {said}"
            return self._not_before(told) or self._backoff(reply.attempts)
        self.gate.answered()
        self.gate.used(slot, 0)
        if answer.status_code == 400 and "context" in said.lower() and "length" in said.lower():
            reply.status, reply.reason = "judge_truncated", f"the question is too long for the judge: {said}"
            return None
        reply.status, reply.reason = "infra_error", f"HTTP {answer.status_code}: {said}"
        if answer.status_code in FINAL:
            return None
        return self._not_before(_retry_after(answer)) or self._backoff(reply.attempts)

    def _not_before(self, told: float | None) -> float | None:
        """A little after the time that the endpoint named, so that not all who were told the same come back at once."""
        return told + self._jitter.uniform(0.01, most_late(told)) if told else None

    def _sampling(self) -> dict[str, Any]:
        return self.config.sampling.model_dump(exclude_none=True)

    def _read(self, answer: httpx.Response, reply: Reply, call: _Call) -> float | None:
        """The text of a 200, or what its finish reason says instead. Subject failures are never asked again.

        A 200 is paid for, whatever it holds.
        """
        try:
            if len(answer.content) > MAX_REPLY_BYTES:
                raise ValueError("the answer is too large")
            body = answer.json()
            told = _usage(body)
            call.took = told or call.guess(answer.text)
            choice = body["choices"][0]
            message = choice["message"]
            content = self._without_key(message.get("content"))
            call.took = told or call.guess(content if isinstance(content, str) else None)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            reply.status = "infra_error"
            reply.reason = f"the endpoint's answer is not a chat completion: {type(error).__name__}: {error}"
            call.said = self._body(answer)
            return self._backoff(reply.attempts)
        finish, refusal = choice.get("finish_reason"), self._without_key(message.get("refusal"))
        call.finish = finish if isinstance(finish, str) else None
        call.said = content if content and isinstance(content, str) else str(refusal or self._body(answer))
        if refusal or finish == "content_filter":
            reply.status, reply.reason = "refusal", str(refusal or "the endpoint's content filter")[:500]
        elif finish in ("length", "model_length"):
            reply.status, reply.reason = "judge_truncated", "the judge ran out of tokens before its answer ended"
        elif not isinstance(content, str) or not content.strip():
            reply.status, reply.reason = "parse_error", "the judge's answer is empty"
        else:
            reply.status, reply.reason, reply.text = "ok", None, content
            given = choice.get("logprobs")
            entries = given.get("content") if isinstance(given, dict) else None
            reply.logprobs = entries if isinstance(entries, list) else None
        return None

    def _body(self, answer: httpx.Response) -> str:
        """All that an answer says, if it is not much too long."""
        return str(self._without_key(answer.content[:MAX_REPLY_BYTES].decode(errors="replace")))

    def _without_key(self, said: Any) -> Any:
        """What an endpoint says, if it is a text, without the key that it was sent: some repeat it in their errors."""
        if not self.api_key or not isinstance(said, str):
            return said
        for form in {self.api_key, json.dumps(self.api_key)[1:-1]}:
            said = said.replace(form, "[the endpoint's key]")
        return said

    def _backoff(self, attempts: int) -> float:
        """0.5 s, 1 s, 2 s … up to 16 s, each times a random factor between a half and one."""
        longest = min(16.0, 0.5 * 2.0 ** (attempts - 1))
        return longest * self._jitter.uniform(0.5, 1.0)


def _usage(body: Mapping[str, Any]) -> Tokens | None:
    """What the endpoint says that the call has taken; null if it says nothing that can be counted."""
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return None
    told, asked = usage.get("completion_tokens"), usage.get("prompt_tokens")
    counted = all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**31 for n in (told, asked))
    return Tokens(asked, told) if counted else None  # type: ignore[arg-type]


def _without_budget(reply: Reply, why: str) -> Reply:
    """No attempt, or no other one."""
    before = f"; the attempt before: {reply.status}: {reply.reason}" if reply.attempts else ""
    reply.status, reply.reason, reply.text = "budget", f"{why}{before}", None
    return reply


def _retry_after(answer: httpx.Response) -> float | None:
    """The wait that the endpoint asks for, in seconds or until a date."""
    value = answer.headers.get("retry-after-ms")
    if value:
        try:
            return max(0.0, float(value) / 1000)
        except ValueError:
            pass
    value = answer.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
