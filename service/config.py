"""`Settings`: the only place that reads the environment (prefix `GRAPE_`, nesting with `__`).

Composition roots (`service.app`, `workers.app`, the child, `service.local`) build it and hand it down.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _as_list(value: Any) -> Any:
    """A JSON list, or values separated by commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        return json.loads(value)
    return [part.strip() for part in value.split(",") if part.strip()]


Paths = Annotated[list[Path], NoDecode, BeforeValidator(_as_list)]
Words = Annotated[list[str], NoDecode, BeforeValidator(_as_list)]


LOCAL_WANTED = "grading_local.wanted"
"""A file in `jobs.run_dir` by which a worker says that cells wait for a worker of queue `grading_local`."""


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DatabaseSettings(_Group):
    """Postgres. `url` is the application's role, `migration_url` the owner's where they differ."""

    url: str = "postgresql+psycopg://localhost/grape"
    migration_url: str | None = None
    pool_size: int = 10
    idle_transaction_s: float = Field(60, gt=0)
    """A worker that says nothing for so long in the middle of a transaction (stopped, cut off) loses it, with its locks."""

    @property
    def owner_url(self) -> str:
        """Who owns the tables."""
        return psycopg_url(self.migration_url or self.url)


class BrokerSettings(_Group):
    """Valkey or Redis."""

    url: str = "redis://localhost:6379/0"


class StorageSettings(_Group):
    """Where artifacts lie: a folder of this machine (or a mounted one), or S3 and the like, with a cache in a folder."""

    url: str = "file:///var/lib/grape/artifacts"
    """`file:///folder`, or `s3://bucket/prefix` (any scheme of fsspec whose package is installed)."""
    options: dict[str, Any] = {}
    """What fsspec's filesystem takes, as JSON: for S3 `{"key": …, "secret": …, "client_kwargs": {"endpoint_url": …}}`."""
    cache_dir: Path = Path("/var/lib/grape/cache")
    """What was written to or fetched from a remote store is kept here; each host has its own."""
    cache_gb: float = Field(100, gt=0)
    """From this size on the longest unused are forgotten."""


class JobsSettings(_Group):
    """Leases and retries (jobs.md)."""

    lease_s: float = Field(60, gt=0)
    heartbeat_s: float = Field(10, gt=0)
    max_attempts: int = Field(5, ge=1)
    retry_backoff_s: float = Field(2, ge=0)
    poll_s: float = Field(1.0, gt=0)
    run_dir: Path | None = None
    waiting_children: int = Field(1, ge=1, le=16)
    """Preloaded children that a training worker keeps ready; more than one is for many short jobs in a row."""
    processes: int | None = Field(None, ge=1, le=64)
    """Processes of the largest job that a training worker takes; null: as many as it sees GPUs, without one as processors."""
    start_method: Literal["auto", "fork", "spawn"] = "auto"
    """How children start: `fork` from a preloaded process (20 ms), `spawn` afresh (seconds; the choice of `auto` beside a GPU)."""
    no_progress_s: float = Field(600, gt=0)
    """A training process that shows no sign of life for so long (or for twenty of its median steps, if that is longer) is stopped:
    its stacks go to the job's log, and the job is tried again."""

    @property
    def grace_s(self) -> float:
        """How long after its end a lease is let be: a heartbeat that is late by little costs no attempt."""
        return self.lease_s / 4


class GradingSettings(_Group):
    """The grading workers: how many calls in flight, how long a claim holds, how long a `try` waits, how long cells are known."""

    concurrency: int = Field(64, ge=1)
    lease_s: float = Field(15, gt=0)
    local_memory_mb: float = Field(8192, gt=0)
    """Weights that a worker of queue `grading_local` keeps loaded; a larger model is loaded alone."""
    local_device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it runs them: the GPU if it sees one, or as told."""
    sandboxes: int | None = Field(None, ge=1, le=256)
    """Completions' code that runs at once; null: as many as there are processors."""
    try_timeout_s: float = Field(120, gt=0, le=540)
    cache_days: float = Field(30, gt=0)
    replies_days: float = Field(30, ge=0)
    """What judges reply is kept word for word for so long; 0: not at all."""
    replies_kb: int = Field(64, ge=1, le=4096)
    """The most that is kept of one question's replies, all votes and attempts together; long ones lose their ends."""


class ModelsSettings(_Group):
    """Folders below which a local model may lie."""

    roots: Paths = []


class EgressSettings(_Group):
    """Networks (CIDR, address, or `loopback`, `private`) that judges may reach although they are not public."""

    allow: Words = []


class LimitsSettings(_Group):
    """Quotas; null is none."""

    concurrent_jobs: int | None = None
    body_mb: float = 32


class Settings(BaseSettings):
    """Everything that a deployment may set."""

    model_config = SettingsConfigDict(
        env_prefix="GRAPE_", env_nested_delimiter="__", extra="forbid", frozen=True, env_ignore_empty=True
    )

    database: DatabaseSettings = DatabaseSettings()
    broker: BrokerSettings = BrokerSettings()
    storage: StorageSettings = StorageSettings()
    jobs: JobsSettings = JobsSettings()
    grading: GradingSettings = GradingSettings()
    models: ModelsSettings = ModelsSettings()
    egress: EgressSettings = EgressSettings()
    limits: LimitsSettings = LimitsSettings()
    secret_key: SecretStr = SecretStr("")
    """32 random bytes in hex: encrypts judges' keys and keys the hashes of API keys."""

    def require_secret_key(self) -> str:
        """The secret, or an error that says how to make one."""
        secret = self.secret_key.get_secret_value()
        if len(secret) < 32:
            raise RuntimeError(
                "GRAPE_SECRET_KEY is missing or short; set it to the output of "
                "`python -c 'import secrets; print(secrets.token_hex(32))'` and keep it: stored secrets need it"
            )
        return secret


def psycopg_url(url: str) -> str:
    """The same address for SQLAlchemy's psycopg driver, which serves sync and async alike."""
    for scheme in ("postgresql://", "postgres://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    return url
