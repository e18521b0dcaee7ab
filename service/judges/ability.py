"""A judge's own options against what its endpoint is known to lack, when the judge is saved."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.queries import abilities as queries
from service.domain.abilities import beyond, lacking
from service.domain.judge import JudgeConfig, JudgeLimits
from service.errors import Invalid


async def require_able(session: AsyncSession, project_id: str, config: JudgeConfig, limits: JudgeLimits) -> None:
    """422 with the place of every option that the endpoint does not have; what nobody knows yet is allowed, and tried."""
    if config.endpoint is None:
        return
    learned = await session.scalar(queries.learned_at(project_id, config.endpoint.base_url, config.endpoint.model))
    faults = [
        {"pointer": place, "code": "unsupported_option", "message": message}
        for place, message in beyond(config, lacking(limits.capabilities.model_dump(), learned))
    ]
    if faults:
        raise Invalid.of(faults)
