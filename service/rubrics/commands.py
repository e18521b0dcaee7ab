"""What is decided about rubrics."""

from __future__ import annotations

import jsonschema
import regex
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from service.db.queries import rubrics as queries
from service.db.queries.jobs import now
from service.db.tables import Judge, Rubric, RubricVersion
from service.domain.grader import JsonSchemaGrader, JudgeGrader, RegexGrader
from service.domain.ids import new_id
from service.domain.rubric import RubricContent
from service.errors import Invalid, NotFound
from service.operation import Caller
from service.rubrics.schemas import RubricIn, RubricPatch, VersionIn


async def create_rubric(session: AsyncSession, caller: Caller, body: RubricIn) -> tuple[Rubric, RubricVersion]:
    """A head with version 1."""
    check_graders(body.content)
    await require_judges(session, caller.project_id, body.content)
    head = Rubric(
        id=new_id("rubric"),
        project_id=caller.project_id,
        name=body.name,
        category=body.category,
        description=body.description,
        latest_version=1,
        head_revision=1,
    )
    session.add(head)
    await session.flush()
    version = await _insert_version(session, caller, head, body.content, body.message)
    await session.refresh(head)
    return head, version


async def publish_version(
    session: AsyncSession, caller: Caller, head: Rubric, body: VersionIn
) -> tuple[RubricVersion, bool]:
    """The next version; the latest one again (and false) if nothing has changed. The head must be locked."""
    check_graders(body.content)
    await require_judges(session, caller.project_id, body.content)
    latest = await session.scalar(queries.version(head.id, head.latest_version))
    assert latest is not None
    if latest.hash == body.content.hash:
        return latest, False
    head.latest_version += 1
    head.updated_at = now()
    version = await _insert_version(session, caller, head, body.content, body.message)
    await session.refresh(head)
    return version, True


async def _insert_version(
    session: AsyncSession, caller: Caller, head: Rubric, content: RubricContent, message: str
) -> RubricVersion:
    version = RubricVersion(
        rubric_id=head.id,
        version=head.latest_version,
        project_id=caller.project_id,
        content=content.model_dump(mode="json"),
        hash=content.hash,
        message=message,
        author=f"{caller.key_id} ({caller.key_prefix}…)",
    )
    session.add(version)
    await session.flush()
    await session.refresh(version)
    return version


async def patch_head(session: AsyncSession, head: Rubric, body: RubricPatch) -> None:
    """Change what stands on the head. It must be locked."""
    for field in body.model_fields_set:
        value = getattr(body, field)
        if value is None and field != "category":
            raise Invalid.at(f"/{field}", "null", f"'{field}' cannot be null; leave it out to keep it")
        setattr(head, field, value)
    head.head_revision += 1
    head.updated_at = now()
    await session.flush()
    await session.refresh(head)


async def point_alias(session: AsyncSession, head: Rubric, alias: str, number: int) -> None:
    """Point an alias at a version that exists. The head must be locked."""
    if alias.isdigit() or alias == "latest" or not alias.replace("-", "").replace("_", "").isalnum():
        raise Invalid.at(
            "/alias", "invalid_alias", "an alias is letters, digits, - and _, no mere number, and not 'latest'"
        )
    if await session.scalar(queries.version(head.id, number)) is None:
        raise Invalid.at(
            "/version", "not_found", f"rubric '{head.id}' has no version {number}; the latest is {head.latest_version}"
        )
    await session.execute(queries.set_alias(head.project_id, head.id, alias, number))
    head.head_revision += 1
    head.updated_at = now()
    await session.flush()
    await session.refresh(head)


async def find_version(session: AsyncSession, head: Rubric, name: str) -> RubricVersion:
    """A version by number, alias or `latest`; 404 otherwise."""
    number: int | None = None
    if name == "latest":
        number = head.latest_version
    elif name.isdigit():
        number = int(name)
    else:
        aliases = (await session.scalars(queries.aliases([head.id]))).all()
        number = next((alias.version for alias in aliases if alias.alias == name), None)
    found = None
    if number is not None and number < 2**31:
        found = await session.scalar(queries.version(head.id, number))
    if found is None:
        raise NotFound(
            f"rubric '{head.id}' has no version or alias '{name}'; the latest version is {head.latest_version}"
        )
    return found


def check_graders(content: RubricContent) -> None:
    """422 with the place for a pattern or a schema that could never grade anything."""
    faults = []
    for position, criterion in enumerate(content.criteria):
        place = f"/content/criteria/{position}/grader"
        grader = criterion.grader
        if isinstance(grader, RegexGrader):
            try:
                regex.compile(grader.pattern)
            except regex.error as error:
                message = f"the regular expression does not compile: {error}"
                faults.append({"pointer": f"{place}/pattern", "code": "invalid_regex", "message": message})
        if isinstance(grader, JsonSchemaGrader):
            try:
                jsonschema.Draft202012Validator.check_schema(grader.schema_)
            except jsonschema.SchemaError as error:
                message = f"this is no JSON schema (draft 2020-12): {error.message}"
                faults.append({"pointer": f"{place}/schema", "code": "invalid_schema", "message": message})
    if faults:
        first = faults[0]
        raise Invalid(
            f"{first['pointer']}: {first['message']}", code=first["code"], param=first["pointer"], errors=faults
        )


async def require_judges(session: AsyncSession, project_id: str, content: RubricContent) -> None:
    """422 with the criterion's path for a judge that does not exist in the project."""
    wanted = content.judge_ids()
    if not wanted:
        return
    known = set(await session.scalars(select(Judge.id).where(Judge.project_id == project_id, Judge.id.in_(wanted))))
    faults = [
        {
            "pointer": f"/content/criteria/{position}/grader/judge",
            "code": "not_found",
            "message": f"there is no judge '{criterion.grader.judge}'",
        }
        for position, criterion in enumerate(content.criteria)
        if isinstance(criterion.grader, JudgeGrader) and criterion.grader.judge not in known
    ]
    if faults:
        raise Invalid(
            f"{faults[0]['pointer']}: {faults[0]['message']}",
            code="not_found",
            param=faults[0]["pointer"],
            errors=faults,
        )
