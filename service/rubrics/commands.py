"""What is decided about rubrics."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from service.contents.check import check
from service.contents.includes import Resolved
from service.db.queries import rubrics as queries
from service.db.queries.jobs import now
from service.db.tables import Rubric, RubricVersion
from service.domain.ids import new_id
from service.domain.lint import Finding
from service.domain.rubric import RubricContent
from service.errors import Invalid, NotFound
from service.operation import Caller
from service.rubrics.advice import advise
from service.rubrics.schemas import RubricIn, RubricPatch, VersionIn

ALIAS_LENGTH = 64


async def create_rubric(
    session: AsyncSession, caller: Caller, body: RubricIn
) -> tuple[Rubric, RubricVersion, list[Finding]]:
    """A head with version 1, and what the linter says of it."""
    resolved = await check(session, caller.project_id, body.content)
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
    version = await _insert_version(session, caller, head, resolved, body.message)
    await session.refresh(head)
    return head, version, await advise(session, caller.project_id, resolved, head.category)


async def publish_version(
    session: AsyncSession, caller: Caller, head: Rubric, body: VersionIn
) -> tuple[RubricVersion, bool, list[Finding]]:
    """The next version; the latest one again (and false) if what it resolves to has not changed; and what the linter says.

    The head must be locked.
    """
    resolved = await check(session, caller.project_id, body.content, head.id)
    findings = await advise(session, caller.project_id, resolved, head.category)
    latest = await session.scalar(queries.version(head.id, head.latest_version))
    assert latest is not None
    # Parsed anew, so that a field which an earlier release did not know makes no difference while it has its default.
    if RubricContent.model_validate(latest.graded_by).hash == resolved.flat.hash:
        return latest, False, findings
    head.latest_version += 1
    head.updated_at = now()
    version = await _insert_version(session, caller, head, resolved, body.message)
    await session.refresh(head)
    return version, True, findings


async def _insert_version(
    session: AsyncSession, caller: Caller, head: Rubric, resolved: Resolved, message: str
) -> RubricVersion:
    version = RubricVersion(
        rubric_id=head.id,
        version=head.latest_version,
        project_id=caller.project_id,
        content=resolved.authored.model_dump(mode="json"),
        resolved=resolved.flat.model_dump(mode="json") if resolved.authored.includes else None,
        hash=resolved.flat.hash,
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
    plain = alias.replace("-", "").replace("_", "").isalnum()
    if alias.isdigit() or alias == "latest" or not plain or len(alias) > ALIAS_LENGTH:
        raise Invalid.at(
            "/alias",
            "invalid_alias",
            f"an alias is at most {ALIAS_LENGTH} letters, digits, - and _, no mere number, and not 'latest'",
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
    found = await session.scalar(queries.named(head.id, name))
    if found is None:
        raise NotFound(
            f"rubric '{head.id}' has no version or alias '{name}'; the latest version is {head.latest_version}"
        )
    return found
