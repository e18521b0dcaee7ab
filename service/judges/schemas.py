"""What goes in and out of `/v1/judges`. The secret goes in and never comes out."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, SecretStr, model_validator

from service.db.tables import Judge, JudgeRevision
from service.domain.base import Value, refuse
from service.domain.conversation import Name, Text
from service.domain.judge import (
    PROMPT_VERSION,
    Batch,
    Capabilities,
    Confidence,
    Examples,
    JudgeConfig,
    JudgeEndpoint,
    JudgeLimits,
    JudgePrompt,
    JudgeSampling,
    ModelId,
    PromptVersion,
    RateLimit,
    StructuredOutput,
    Url,
    Votes,
)
from service.domain.spending import Price, Spent, Usd

OF_ENDPOINTS = ("rate_limit", "timeout_s", "max_attempts", "deadline_s", "price", "max_cost_usd", "capabilities")
"""Limits that a registered model does not have: it is not called, answers when its turn comes, and costs nothing."""

OF_REVISION = ("sampling", "prompt", "examples", "votes", "confidence", "batch", "structured_output")
"""What decides verdicts, beside where the judge is."""


def _fits_a_header(key: SecretStr) -> SecretStr:
    if not re.fullmatch(r"[!-~]+", key.get_secret_value()):
        raise ValueError("an API key is printable ASCII without spaces: it is sent in the Authorization header")
    return key


Secret = Annotated[SecretStr, Field(max_length=10_000), AfterValidator(_fits_a_header)]


class EndpointIn(Value):
    """An endpoint with its key."""

    base_url: Url
    model: Annotated[Text, Field(min_length=1, max_length=500)]
    api_key: Secret | None = None


class PromptIn(JudgePrompt):
    """What a new judge is told; asked with today's texts unless it says otherwise."""

    version: PromptVersion = PROMPT_VERSION


class JudgeIn(JudgeLimits):
    """A new judge; its limits stand beside the rest."""

    name: Name
    endpoint: EndpointIn | None = None
    model: ModelId | None = None
    sampling: JudgeSampling = JudgeSampling()
    prompt: PromptIn = PromptIn()
    examples: Examples = []
    votes: Votes = 1
    confidence: Confidence = "verbal"
    batch: Batch = 1
    structured_output: StructuredOutput = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> JudgeIn:
        self.config()
        if self.model is not None:
            refuse_limits(self)
        return self

    def config(self) -> JudgeConfig:
        """What makes a revision."""
        rest: dict[str, Any] = {name: getattr(self, name) for name in OF_REVISION if name != "prompt"}
        if self.endpoint is not None:
            rest["endpoint"] = JudgeEndpoint(base_url=self.endpoint.base_url, model=self.endpoint.model)
        if self.model is not None and self.structured_output == "auto":
            rest["structured_output"] = "off"
        return JudgeConfig.model_validate({"model": self.model, "prompt": self.prompt.model_dump(), **rest})

    def limits(self) -> JudgeLimits:
        """What stands outside of it."""
        return JudgeLimits.model_validate({name: getattr(self, name) for name in JudgeLimits.model_fields})


class EndpointPatch(Value):
    """Changes of the endpoint; a null `api_key` removes it."""

    base_url: Url | None = None
    model: Annotated[Text, Field(min_length=1, max_length=500)] | None = None
    api_key: Secret | None = None


class JudgePatch(Value):
    """Changes; absent fields stay, and null lifts `rate_limit`, `price` and `max_cost_usd`. What decides verdicts makes a new revision."""

    name: Name | None = None
    endpoint: EndpointPatch | None = None
    model: ModelId | None = None
    sampling: JudgeSampling | None = None
    prompt: JudgePrompt | None = None
    examples: Examples | None = None
    votes: Votes | None = None
    confidence: Confidence | None = None
    batch: Batch | None = None
    structured_output: StructuredOutput | None = None
    concurrency: Annotated[int, Field(ge=1, le=1024)] | None = None
    rate_limit: RateLimit | None = None
    timeout_s: Annotated[float, Field(gt=0, le=3600)] | None = None
    max_attempts: Annotated[int, Field(ge=1, le=20)] | None = None
    deadline_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    cache: bool | None = None
    price: Price | None = None
    max_cost_usd: Usd | None = None
    capabilities: Capabilities | None = None


def refuse_limits(given: JudgeIn | JudgePatch) -> None:
    """Refuse limits of endpoints in a request about a registered model."""
    for name in OF_ENDPOINTS:
        if name in given.model_fields_set:
            refuse(
                (
                    (name,),
                    "invalid_option",
                    f"'{name}' belongs to judges with an endpoint; this one is a registered model",
                )
            )


class RevisionOut(BaseModel):
    """An immutable revision."""

    judge: str
    revision: int
    fingerprint: str
    config: dict[str, Any]
    created_at: datetime

    @classmethod
    def of(cls, row: JudgeRevision) -> RevisionOut:
        """From its row."""
        return cls(
            judge=row.judge_id,
            revision=row.revision,
            fingerprint=row.fingerprint,
            config=row.config,
            created_at=row.created_at,
        )


class JudgeOut(BaseModel):
    """A judge as it is now; `has_api_key` instead of the key."""

    id: str
    name: str
    revision: int
    fingerprint: str
    endpoint: dict[str, Any] | None
    model: str | None = None
    has_api_key: bool
    sampling: dict[str, Any]
    prompt: dict[str, Any]
    examples: list[dict[str, Any]] = []
    votes: int
    confidence: str
    batch: int = 1
    structured_output: str = "off"
    concurrency: int
    rate_limit: RateLimit | None
    timeout_s: float
    max_attempts: int
    deadline_s: float
    cache: bool
    price: Price | None = None
    max_cost_usd: float | None = None
    capabilities: Capabilities = Capabilities()
    learned: dict[str, bool]
    """What asking its endpoint has shown lately; `capabilities` counts over it."""
    spent: Spent
    """By all jobs, gradings and tries, since it was created; what `max_cost_usd` bounds."""
    etag: str
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: Judge, revision: JudgeRevision) -> JudgeOut:
        """From its rows."""
        limits = JudgeLimits.model_validate(row.limits)
        return cls(
            id=row.id,
            name=row.name,
            revision=row.revision,
            fingerprint=revision.fingerprint,
            has_api_key=row.secret is not None,
            learned=row.learned or {},
            spent=Spent.model_validate(row.spent or {}),
            etag=head_etag(row),
            created_at=row.created_at,
            updated_at=row.updated_at,
            **revision.config,
            **{name: getattr(limits, name) for name in JudgeLimits.model_fields},
        )


def head_etag(row: Judge) -> str:
    """Changes with every PATCH."""
    return f'"{row.id}:{row.revision}.{row.head_revision}"'
