"""What goes in and out of `/v1/rubrics`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field

from service.db.tables import Rubric, RubricAlias, RubricVersion
from service.domain.base import Value
from service.domain.conversation import Name, Text
from service.domain.diff import RubricDiff, diff, includes_of
from service.domain.lint import Finding, Shares
from service.domain.rubric import AuthoredContent, RubricContent, RubricId


class RubricIn(Value):
    """A new rubric and its first version."""

    name: Name
    category: Name | None = None
    description: Text = ""
    content: AuthoredContent
    message: Text = ""


class RubricPatch(Value):
    """Changes of the head; absent fields stay."""

    name: Name | None = None
    category: Name | None = None
    description: Text | None = None


class VersionIn(Value):
    """A new version."""

    content: AuthoredContent
    message: Text = ""


class ValidateIn(Value):
    """A content to check. `rubric` says whose next version it would be: a rubric may not include itself, and its head has the
    category."""

    content: AuthoredContent
    rubric: RubricId | None = None


class AliasIn(Value):
    """Where an alias points."""

    version: Annotated[int, Field(ge=1, lt=2**31)]


class RubricOut(BaseModel):
    """The head."""

    id: str
    name: str
    category: str | None
    description: str
    latest_version: int
    aliases: dict[str, int]
    etag: str
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: Rubric, aliases: list[RubricAlias]) -> RubricOut:
        """From its rows."""
        return cls(
            id=row.id,
            name=row.name,
            category=row.category,
            description=row.description,
            latest_version=row.latest_version,
            aliases={alias.alias: alias.version for alias in aliases if alias.rubric_id == row.id},
            etag=head_etag(row),
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


class VersionOut(BaseModel):
    """An immutable version.

    `content` is what was written, its includes pinned; `resolved` what that flattens to, null without includes. `hash` is the
    sha256 of the canonical JSON of what completions are graded by.
    """

    rubric: str
    version: int
    hash: str
    content: dict[str, Any]
    resolved: dict[str, Any] | None
    author: str
    message: str
    created_at: datetime

    @classmethod
    def of(cls, row: RubricVersion) -> VersionOut:
        """From its row."""
        return cls(
            rubric=row.rubric_id,
            version=row.version,
            hash=row.hash,
            content=row.content,
            resolved=row.resolved,
            author=row.author,
            message=row.message,
            created_at=row.created_at,
        )


class PublishedOut(VersionOut):
    """A version as it was just published, with what the linter says of it."""

    findings: list[Finding]

    @classmethod
    def with_findings(cls, row: RubricVersion, findings: list[Finding]) -> PublishedOut:
        """From its row."""
        return cls(**VersionOut.of(row).model_dump(), findings=findings)


class ComparedVersion(BaseModel):
    """A version that is compared."""

    version: int
    hash: str


class DiffOut(RubricDiff):
    """From version `before` to version `after` of a rubric."""

    rubric: str
    before: ComparedVersion
    after: ComparedVersion

    @classmethod
    def of(cls, old: RubricVersion, new: RubricVersion) -> DiffOut:
        """From their rows."""
        found = diff(
            RubricContent.model_validate(old.graded_by),
            RubricContent.model_validate(new.graded_by),
            includes_of(old.content),
            includes_of(new.content),
        )
        return cls(
            rubric=old.rubric_id,
            before=ComparedVersion(version=old.version, hash=old.hash),
            after=ComparedVersion(version=new.version, hash=new.hash),
            **dict(found),
        )


class NewRubricOut(RubricOut):
    """A head with the version that was made with it."""

    version: PublishedOut


class NoteOut(BaseModel):
    """How a place of an imported file was read."""

    pointer: str
    message: str


class ImportedOut(NewRubricOut):
    """A rubric out of a file. `notes`: what an author should know of how it was read."""

    notes: list[NoteOut]


class ValidationOut(BaseModel):
    """A content that is valid: with defaults filled in and includes pinned, what it resolves to, and the hash of that.

    `findings` is what the linter says, none of it a reason to refuse; `shares` how much counts for what.
    """

    valid: bool
    hash: str
    content: dict[str, Any]
    resolved: dict[str, Any]
    findings: list[Finding]
    shares: Shares


def head_etag(row: Rubric) -> str:
    """Changes with every version, alias and change of the head."""
    return f'"{row.id}:{row.latest_version}.{row.head_revision}"'
