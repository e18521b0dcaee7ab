"""Judges: LLMs that score. A revision is immutable; the secret and the limits stand outside it."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from service.domain.base import Value, content_hash, refuse
from service.domain.conversation import Text
from service.domain.spending import Price, Usd


def _http_url(url: str) -> str:
    parts = urlsplit(url)
    _ = parts.port  # raises for one that is no number up to 65535
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("give an address such as https://host/v1 (http or https, with a host)")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            "the address may not hold a user, a password, a query or a fragment; the key goes into api_key"
        )
    return url.rstrip("/")


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port: who is spoken to."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


Url = Annotated[str, StringConstraints(max_length=2000, strip_whitespace=True), AfterValidator(_http_url)]


Confidence = Literal["verbal", "logprob", "votes", "none"]
"""Where a judge's confidence comes from: what it says, its answer tokens' probabilities, the agreement of its votes, or nowhere."""

Votes = Annotated[int, Field(ge=1, le=32)]
Batch = Annotated[int, Field(ge=1, le=64)]
ModelId = Annotated[str, StringConstraints(pattern=r"^mdl_[0-9a-z]+$")]


class JudgeEndpoint(Value):
    """An OpenAI-compatible `/chat/completions` endpoint."""

    base_url: Url
    model: Annotated[Text, StringConstraints(min_length=1, max_length=500)]


StructuredOutput = Literal["auto", "on", "off"]
"""Whether a reply's form is sent as `response_format` too: where the first question shows that it works, always, or never."""

Tokens = Annotated[int, Field(ge=16, le=100_000)]


class JudgeSampling(Value):
    """Sampling parameters that are sent under their own names; null ones are not sent.

    Models that reason take `max_completion_tokens` in place of `max_tokens`, and no temperature: where the former, or
    `reasoning_effort`, is given, the default of the latter is null.
    """

    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    max_tokens: Tokens | None = 1024
    seed: int | None = None
    max_completion_tokens: Tokens | None = None
    reasoning_effort: Annotated[Text, StringConstraints(pattern=r"^[a-z]{1,20}$")] | None = None

    @model_validator(mode="before")
    @classmethod
    def _defaults_that_fit(cls, data: Any) -> Any:
        if isinstance(data, dict):
            for name, other in (("max_completion_tokens", "max_tokens"), ("reasoning_effort", "temperature")):
                if data.get(name) is not None:
                    data = {other: None, **data}
        return data

    @model_validator(mode="after")
    def _one_limit(self) -> JudgeSampling:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            refuse((("max_tokens",), "contradiction", "give 'max_tokens' or 'max_completion_tokens', not both"))
        return self


PROMPT_VERSION = 2
"""The version of the question's texts that new judges get (`workers/graders/judge/prompt.py` has them)."""

PromptVersion = Annotated[int, Field(ge=1, le=PROMPT_VERSION)]


class JudgePrompt(Value):
    """What the judge is told beside the rubric, and the version of the texts around it.

    A stored revision without a version was asked with version 1.
    """

    system: Text = ""
    version: PromptVersion = 1


class JudgeExample(Value):
    """An answer that was graded well, shown to the judge where its verdict is one that the criterion allows.

    With `criterion` (a key) it is shown only where that criterion is asked.
    """

    prompt: Text
    answer: Text
    criterion: Annotated[Text, StringConstraints(min_length=1, max_length=300)] | None = None
    verdict: bool | Annotated[float, Field(ge=0, le=1)] | Annotated[Text, StringConstraints(max_length=100)] | None
    reasoning: Text = ""
    confidence: Annotated[float, Field(ge=0, le=1)] | None = None


Examples = Annotated[list[JudgeExample], Field(max_length=32)]


class JudgeConfig(Value):
    """What decides a verdict; each change of it is a new revision. Defaults are what stored revisions without a field meant.

    `endpoint` or `model`: somebody's server, or a registered model that this service's own workers run. `batch`: how many
    criteria of one completion go into one question.
    """

    endpoint: JudgeEndpoint | None = None
    model: ModelId | None = None
    sampling: JudgeSampling = JudgeSampling()
    prompt: JudgePrompt = JudgePrompt()
    examples: Examples = []
    votes: Votes = 1
    confidence: Confidence = "verbal"
    batch: Batch = 1
    structured_output: StructuredOutput = "off"

    @model_validator(mode="after")
    def _one_place(self) -> JudgeConfig:
        if (self.endpoint is None) == (self.model is None):
            refuse(((), "one_of", "give exactly one of 'endpoint' (an address) and 'model' (a registered model)"))
        return self

    @model_validator(mode="after")
    def _what_our_sampler_can(self) -> JudgeConfig:
        """A registered model is sampled here: what only endpoints can do is refused."""
        if self.model is None:
            return self
        for name, wrong in (
            ("temperature", self.sampling.temperature is None),
            ("top_p", self.sampling.top_p is not None),
            ("reasoning_effort", self.sampling.reasoning_effort is not None),
        ):
            if wrong:
                say = "needs a temperature (0 is greedy)" if name == "temperature" else f"takes no {name}"
                refuse((("sampling", name), "invalid_option", f"a judge that is a registered model {say}"))
        if self.structured_output != "off":
            message = "a judge that is a registered model writes plain text; leave 'structured_output' out"
            refuse((("structured_output",), "invalid_option", message))
        return self

    @model_validator(mode="after")
    def _consistent(self) -> JudgeConfig:
        if self.confidence == "logprob" and self.batch > 1:
            refuse(
                (
                    ("batch",),
                    "contradiction",
                    "confidence 'logprob' reads the probabilities of one verdict that no other was written before; leave 'batch' at 1",
                )
            )
        if self.confidence == "votes" and self.votes < 2:
            refuse(
                (
                    ("votes",),
                    "contradiction",
                    "confidence 'votes' is the agreement of at least two votes; raise 'votes'",
                )
            )
        return self

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change whenever anything here does; stored with every cell.

        What a revision of an earlier release could not say does not count while it says what was done then, so that the same
        question keeps its fingerprint.
        """
        told = self.model_dump(mode="json")
        for part, name, then in _ADDED:
            here = told[part] if part else told
            if here[name] == then:
                del here[name]
        return content_hash(told)[:16]


_ADDED: tuple[tuple[str, str, Any], ...] = (
    ("", "model", None),
    ("", "examples", []),
    ("", "batch", 1),
    ("", "structured_output", "off"),
    ("prompt", "version", 1),
    ("sampling", "max_completion_tokens", None),
    ("sampling", "reasoning_effort", None),
)
"""Fields that came later, with what was done before: the defaults of stored revisions. New judges get others."""


class RateLimit(Value):
    """How many requests and tokens a minute the endpoint takes, over all workers; null is no limit."""

    requests_per_minute: Annotated[float, Field(gt=0, le=10_000_000)] | None = None
    tokens_per_minute: Annotated[float, Field(gt=0, le=100_000_000_000)] | None = None


class Capabilities(Value):
    """Whether an endpoint's model can do something: true, false, or null for "try it". What is said here counts over what was
    learned. All but the first two are sampling parameters."""

    json_schema: bool | None = None
    logprobs: bool | None = None
    temperature: bool | None = None
    top_p: bool | None = None
    max_tokens: bool | None = None
    max_completion_tokens: bool | None = None
    seed: bool | None = None
    reasoning_effort: bool | None = None


class JudgeLimits(Value):
    """How hard the endpoint may be used; changing these makes no new revision.

    Judges with the same address, model and key share one endpoint; the strictest of their limits counts there. `cache`: an ok
    cell is not asked for again, as long as everything that it depends on is the same; with a sampling temperature too, where the
    votes of a cell stand for one draw. `price`: what a million tokens cost; cells and jobs show costs only then.

    `max_cost_usd` bounds what the judge costs in all, since it was created, over all jobs, gradings and tries of its project; it
    needs a price. The judge's `spent` says how much of it is used up. Cells beyond it have the status `budget`, and jobs pause;
    a PATCH raises it, and null lifts it. `capabilities`: what the endpoint can do, as far as somebody knows.
    """

    concurrency: Annotated[int, Field(ge=1, le=1024)] = 16
    rate_limit: RateLimit | None = None
    timeout_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    max_attempts: Annotated[int, Field(ge=1, le=20)] = 4
    deadline_s: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    cache: bool = True
    price: Price | None = None
    max_cost_usd: Usd | None = None
    capabilities: Capabilities = Capabilities()

    @model_validator(mode="after")
    def _cost_needs_a_price(self) -> JudgeLimits:
        if self.max_cost_usd is not None and self.price is None:
            message = "a bound on the cost needs 'price': what a million tokens cost, {input_per_mtok, output_per_mtok} in USD"
            refuse((("max_cost_usd",), "missing_price", message))
        return self
