"""Whether a judge's endpoint is there: one cheap question before a job starts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import httpx

from workers.graders.judge.connections import judge_client

TRIES = 3
TIMEOUT_S = 5.0


def probe(base_url: str, api_key: str | None, allowed: Iterable[str]) -> str | None:
    """Null if `GET base_url/models` is answered (404 is an answer too), else a sentence about what is wrong."""
    return asyncio.run(_probe(base_url, api_key, list(allowed)))


async def _probe(base_url: str, api_key: str | None, allowed: list[str]) -> str | None:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    problem: str | None = None
    async with judge_client(allowed) as client:
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(0.5 * attempt)
            try:
                answer = await client.get(f"{base_url}/models", headers=headers, timeout=TIMEOUT_S)
            except httpx.HTTPError as error:
                problem = f"{base_url} does not answer ({type(error).__name__}: {error})"
                continue
            if answer.status_code in (401, 403):
                return f"{base_url} refuses its API key (HTTP {answer.status_code}); set endpoint.api_key"
            if answer.status_code < 500:
                return None
            problem = f"{base_url} answers HTTP {answer.status_code}"
    return problem
