"""`probe`: answers that say nothing, put before the judges of a rubric version as one `try`."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.tables import RubricVersion
from service.domain.criteria import criteria_of
from service.domain.dataset import prompt_view
from service.domain.grader import JudgeGrader
from service.domain.grading import ProbeIn, TryIn
from service.domain.master_keys import MASTER_KEYS, probed
from service.domain.rubric import RubricContent
from service.gradings.schemas import ProbedOut
from service.gradings.trying import try_version
from service.operation import Caller
from service.services import Services


async def probe_version(
    services: Services, session: AsyncSession, caller: Caller, version: RubricVersion, body: ProbeIn
) -> ProbedOut:
    """What each judged criterion that applies to the prompt lets through."""
    criteria = criteria_of(RubricContent.model_validate(version.graded_by), prompt_view(body.prompt, ""))
    kinds = {c.key: c.polarity == "met_is_good" for c in criteria if isinstance(c.grader, JudgeGrader)}
    texts = TryIn(prompt=body.prompt, completions=list(MASTER_KEYS))
    rows = await try_version(services, session, caller, version, texts)
    found = probed(kinds, [{cell.criterion: cell.score for cell in row.cells} for row in rows])
    return ProbedOut(data=rows, **dict(found))
