"""Asking a judge within what its endpoint can do.

Nothing here asks again for the sake of another verdict: a question is repeated only where the endpoint refused the form in
which it was put, or gave nothing at all to a question with a schema.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from service.domain.judge import JudgeConfig
from service.domain.rubric import Criterion
from workers.graders.judge.abilities import Abilities, ReplyFormat
from workers.graders.judge.client import Reply
from workers.graders.judge.expectation import TOP_LOGPROBS
from workers.graders.judge.schema import response_format

REFUSALS = (400, 404, 415, 422, 500, 501)
"""Answers that may be about the form of the question; the others say what they mean."""

_ABOUT = {
    "response_format": ("response_format", "json_schema", "schema", "structured", "guided", "grammar"),
    "logprobs": ("logprob",),
}


class Asker(Protocol):
    """Who can be asked: an endpoint, or a model that this service runs itself."""

    config: JudgeConfig
    abilities: Abilities

    async def ask(self, messages: list[dict[str, str]], options: Mapping[str, Any] | None = None) -> Reply:
        """One question and its answer; never raises for what a judge does."""


async def ask_within(
    asker: Asker, messages: list[dict[str, str]], criteria: Sequence[Criterion], *, logprobs: bool
) -> tuple[Reply, ReplyFormat]:
    """Ask with a schema where that works, and for log-probabilities if they are wanted; the reply, and how it was asked for.

    With `structured_output: auto` the first question is the probe: if the endpoint refuses the schema it is asked as text, now
    and from now on. An empty reply to a schema is asked once as text (long inputs empty some endpoints' structured replies). The
    costs of all of it stand in the reply.
    """
    abilities, wanted = asker.abilities, asker.config.structured_output
    options: dict[str, Any] = {}
    if wanted == "on" or (wanted == "auto" and abilities.json_schema is not False):
        options["response_format"] = response_format(criteria)
    if logprobs and abilities.logprobs is not False:
        options |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    reply = await asker.ask(messages, options)
    left_out = []
    while (blamed := _blamed(reply, options, abilities, wanted)) is not None:
        for name in ("response_format",) if blamed == "response_format" else ("logprobs", "top_logprobs"):
            del options[name]
        left_out.append(blamed)
        reply = _after(reply, await asker.ask(messages, options))
    if reply.http_status == 200:  # what was left out has done it
        for blamed in left_out:
            _learn(abilities, blamed)
    _note(abilities, reply, options, asker.config)
    if "response_format" not in options:
        return _explained(reply, asker.config), "text"
    if reply.http_status == 200:
        abilities.saw_schema(empty=_is_empty(reply))
        if _is_empty(reply) and wanted == "auto":
            del options["response_format"]
            return _after(reply, await asker.ask(messages, options)), "text"
    return _explained(reply, asker.config), "json_schema"


def _blamed(reply: Reply, options: Mapping[str, Any], abilities: Abilities, wanted: str) -> str | None:
    """The option to leave out next: the one that the refusal names, else one that has never worked here."""
    if reply.status != "infra_error" or reply.http_status not in REFUSALS:
        return None
    unsure = {"response_format": abilities.json_schema is None, "logprobs": abilities.logprobs is None}
    open_ones = [name for name in _ABOUT if name in options and not (name == "response_format" and wanted == "on")]
    named = [name for name in open_ones if _is_about(reply, name)]
    return next(iter([*named, *(name for name in open_ones if unsure[name])]), None)


def _learn(abilities: Abilities, blamed: str) -> None:
    if blamed == "logprobs":
        abilities.logprobs = False
    elif abilities.json_schema is None:  # one schema that was refused says nothing about those that were not
        abilities.json_schema = False


def _note(abilities: Abilities, reply: Reply, options: Mapping[str, Any], config: JudgeConfig) -> None:
    """What the last answer shows, beside whether it is empty."""
    if reply.http_status == 200:
        abilities.took(config.sampling.model_dump(exclude_none=True))
        if "logprobs" in options and reply.text is not None:
            abilities.saw_logprobs(given=bool(reply.logprobs))
    elif reply.http_status in (400, 422) and _NOT_TAKEN.search(reply.reason or ""):
        name = _refused_parameter(reply, config)
        if name is not None:
            abilities.sampling[name] = False
        elif "response_format" in options and _is_about(reply, "response_format") and abilities.json_schema is None:
            abilities.json_schema = False


def _is_empty(reply: Reply) -> bool:
    return reply.text is None and reply.status == "parse_error"


def _after(first: Reply, second: Reply) -> Reply:
    """The second reply, with the costs of both."""
    second.attempts += first.attempts
    second.latency_ms += first.latency_ms
    second.tokens_in += first.tokens_in
    second.tokens_out += first.tokens_out
    second.tokens_estimated |= first.tokens_estimated
    second.heard = [*first.heard, *second.heard]
    return second


def _explained(reply: Reply, config: JudgeConfig) -> Reply:
    """A refusal with what to change in the judge, if it names a field of ours."""
    if reply.status != "infra_error" or reply.http_status not in REFUSALS:
        return reply
    name = _refused_parameter(reply, config)
    if name is not None:
        advice = f"if this model takes no '{name}', set the judge's sampling.{name} to null"
        if name == "max_tokens":
            advice += " and sampling.max_completion_tokens to a number"
        reply.reason = f"{reply.reason}; {advice}"
    elif config.structured_output == "on" and _is_about(reply, "response_format"):
        reply.reason = f"{reply.reason}; set the judge's structured_output to 'auto' or 'off'"
    return reply


_NOT_TAKEN = re.compile(
    r"(?i)unsupported|not (?:be )?supported|does(?:n't| not) support|not (?:permitted|allowed|available|accepted)"
    r"|un(?:known|recognized|recognised|expected)"
)
"""A refusal that is about the parameter itself; others are about its value."""


def _refused_parameter(reply: Reply, config: JudgeConfig) -> str | None:
    """The sampling parameter that a refusal names."""
    if reply.status != "infra_error" or reply.http_status not in REFUSALS:
        return None
    said = (reply.reason or "").lower()
    marks = ("'{}'", '"{}"', '"{}\\"', "`{}`", " {} ")
    sent = config.sampling.model_dump(exclude_none=True)
    return next((name for name in sent if any(mark.format(name) in said for mark in marks)), None)


def _is_about(reply: Reply, option: str) -> bool:
    said = (reply.reason or "").lower()
    return any(word in said for word in _ABOUT[option])
