"""Loading what a rubric includes: every name is pinned to a version now, and cycles are refused."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.queries import rubrics as queries
from service.db.tables import RubricVersion
from service.domain.includes import flatten, pinned
from service.domain.rubric import AuthoredContent, Include, RubricContent
from service.errors import Invalid
from service.problems import validation_problem


@dataclass(frozen=True, slots=True)
class Resolved:
    """A content with its includes pinned, what it flattens to, and the flat contents of its includes."""

    authored: AuthoredContent
    flat: RubricContent
    included: list[RubricContent]


async def resolve(
    session: AsyncSession, project_id: str, authored: AuthoredContent, rubric_id: str | None = None
) -> Resolved:
    """Pin and flatten; 422 with the place for what an include names wrongly. `rubric_id`: whose version this becomes."""
    found: list[RubricVersion] = []
    faults: list[dict[str, str]] = []
    for position, include in enumerate(authored.includes):
        place = f"/content/includes/{position}"
        version = await _find(session, project_id, include, place, faults)
        if version is None:
            continue
        found.append(version)
        chain = await _chain(session, version, rubric_id)
        if chain:
            message = f"a rubric cannot include itself, in no version: {' → '.join([str(rubric_id), *chain])}"
            faults.append({"pointer": f"{place}/rubric", "code": "cycle", "message": message})
    if faults:
        raise Invalid.of(faults)
    contents = [RubricContent.model_validate(version.graded_by) for version in found]
    try:
        flat = flatten(authored, contents)
    except ValidationError as error:
        details = [{**item, "loc": ("content", *item["loc"])} for item in error.errors(include_url=False)]
        raise validation_problem(details, {"content": authored.model_dump(mode="json")}) from None
    return Resolved(pinned(authored, [version.version for version in found]), flat, contents)


async def _find(
    session: AsyncSession, project_id: str, include: Include, place: str, faults: list[dict[str, str]]
) -> RubricVersion | None:
    head = await session.scalar(queries.head(project_id, include.rubric))
    if head is None:
        message = f"there is no rubric '{include.rubric}'"
        faults.append({"pointer": f"{place}/rubric", "code": "not_found", "message": message})
        return None
    version = await session.scalar(queries.named(head.id, include.version))
    if version is None:
        message = f"rubric '{head.id}' has no version or alias '{include.version}'; the latest version is {head.latest_version}"
        faults.append({"pointer": f"{place}/version", "code": "not_found", "message": message})
    return version


async def _chain(session: AsyncSession, start: RubricVersion, rubric_id: str | None) -> list[str]:
    """The rubrics from `start` to `rubric_id` by way of includes; empty if they do not lead there."""
    if rubric_id is None:
        return []
    ways = {(start.rubric_id, start.version): [start.rubric_id]}
    level = [start]
    while level:
        following: dict[tuple[str, int], list[str]] = {}
        for version in level:
            way = ways[version.rubric_id, version.version]
            if version.rubric_id == rubric_id:
                return way
            for inner in version.content.get("includes", []):
                pin = (inner["rubric"], inner["version"])
                if pin not in ways:
                    following[pin] = [*way, inner["rubric"]]
        ways.update(following)
        level = list(await session.scalars(queries.these_versions(following))) if following else []
    return []
