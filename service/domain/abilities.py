"""What the model behind a judge's address can do: said by people, and learned by asking.

What nobody knows is allowed, and the first questions show it. What is known to be missing is refused where it is saved: a judge's
own options when the judge is, a criterion's `confidence` when a rubric or a row is (reference/rubrics.md §5.2 #20).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from service.domain.judge import JudgeConfig

LEARNED_DAYS = 7.0
"""What asking has shown counts for so long: endpoints change."""


def lacking(said: Mapping[str, Any] | None, learned: Mapping[str, bool] | None) -> dict[str, str]:
    """What is known to be missing, each with how: `said` by a person or `learned`."""
    known = {name: value for name, value in (said or {}).items() if value is not None}
    missing = {name: "learned" for name, there in (learned or {}).items() if not there and name not in known}
    return {**missing, **{name: "said" for name, there in known.items() if not there}}


def no_logprobs(how: str, who: str) -> str:
    """Why confidence `logprob` cannot be had of `who`, and what to do."""
    return (
        f"confidence 'logprob' needs the log-probabilities of the answer, and {who} {_gives(how, 'logprobs')}; take 'verbal', or "
        f"'votes' with 2 votes or more{_or_say_so(how, 'logprobs')}"
    )


def beyond(config: JudgeConfig, lacks: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The options of a judge that its endpoint does not have: the place of each, and a sentence that says what to do."""
    if config.endpoint is None:
        return
    who = f"'{config.endpoint.model}' at {config.endpoint.base_url}"
    if config.confidence == "logprob" and "logprobs" in lacks:
        yield "/confidence", no_logprobs(lacks["logprobs"], who)
    if config.structured_output == "on" and "json_schema" in lacks:
        how = lacks["json_schema"]
        message = (
            f"'on' needs an endpoint that takes a JSON schema, and {who} {_gives(how, 'json_schema')}; set it to 'auto' or "
            f"'off'{_or_say_so(how, 'json_schema')}"
        )
        yield "/structured_output", message
    for name in config.sampling.model_dump(exclude_none=True):
        if name in lacks:
            rest = " and sampling.max_completion_tokens to a number" if name == "max_tokens" else ""
            how = lacks[name]
            message = f"{who} {_gives(how, name)}; set sampling.{name} to null{rest}, so that it is not sent{_or_say_so(how, name)}"
            yield f"/sampling/{name}", message


def _gives(how: str, name: str) -> str:
    what = {"logprobs": "gives none", "json_schema": "takes none"}.get(name, f"takes no '{name}'")
    return f"{what} (capabilities.{name} says so)" if how == "said" else f"{what}, as asking it has shown"


def _or_say_so(how: str, name: str) -> str:
    return "" if how == "said" else f"; if it can by now, set capabilities.{name} to true"
