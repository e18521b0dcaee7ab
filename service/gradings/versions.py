"""The versions that a grading is done by: one for every prompt, or one for each category, each with its own options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from service.domain.criteria import NO_VOTES, criterion_weights
from service.domain.grading import scoring_options
from service.domain.job import Rubrics
from service.domain.pinned import ANY_CATEGORY, PinnedRubrics, common
from service.domain.revision_request import with_votes
from service.domain.rubric import DEFAULT_AGGREGATION, Aggregation, Criterion, RubricContent
from service.domain.scoring import mismatches
from service.errors import Invalid
from service.pins import RubricPins


@dataclass(frozen=True, slots=True)
class Version:
    """A version by its name in the grading, with the options that its groups are scored by."""

    name: str
    content: RubricContent
    aggregation: Aggregation


@dataclass(frozen=True, slots=True)
class Versions:
    """Versions by name, and the names by category; `*` stands for all categories that are not named."""

    names: Mapping[str, str]
    versions: Mapping[str, Version]
    pinned: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def one(cls, name: str, content: RubricContent, aggregation: Aggregation) -> Versions:
        """A single one, for every prompt."""
        return cls({ANY_CATEGORY: name}, {name: Version(name, content, aggregation)})

    def of(self, category: str | None, place: str) -> Version:
        """The version for prompts of this category; 422 at `place`, the prompt's pointer, if there is none."""
        name = PinnedRubrics(self.names, {}).name_for(category)
        if name is None:
            what = "no category" if category is None else f"the category '{category}'"
            message = (
                f"the prompt has {what}, for which no rubric is named; name one, or one for '*': all other categories"
            )
            raise Invalid.at(f"{place}/category", "no_rubric", message)
        return self.versions[name]

    @property
    def contents(self) -> list[RubricContent]:
        """Each version's content, once."""
        return [version.content for version in self.versions.values()]

    @property
    def aggregation(self) -> Aggregation:
        """The options on which all versions agree."""
        return common(version.aggregation for version in self.versions.values())

    def asked_at_least(self, votes: int, own: Mapping[str, int]) -> Versions:
        """The same, every judged criterion with so many votes at least. `own`: each judge's own number."""
        contents = {name: with_votes(version.content, votes, dict(own)) for name, version in self.versions.items()}
        return Versions(
            self.names,
            {name: replace(version, content=contents[name]) for name, version in self.versions.items()},
            {name: {**pin, "content": contents[name].model_dump(mode="json")} for name, pin in self.pinned.items()},
        )

    @property
    def resolved(self) -> dict[str, Any]:
        """What is stored with the grading."""
        rubrics = {
            name: {**self.pinned[name], "aggregation": version.aggregation.model_dump()}
            for name, version in self.versions.items()
        }
        return {"rubric": dict(self.names), "rubrics": rubrics}


async def pin_versions(session: AsyncSession, project: str, rubrics: Rubrics, wanted: Aggregation) -> Versions:
    """Pin what a request names; 422 for options that a version's criteria do not allow."""
    pins = RubricPins()
    names = await pins.add(session, project, rubrics, "/rubric")
    versions = {name: Version(name, content, aggregate_by(content, wanted)) for name, content in pins.contents.items()}
    return Versions(names, versions, pins.versions)


def aggregate_by(content: RubricContent, wanted: Aggregation) -> Aggregation:
    """The request's options over the author's over the defaults; 422 for what the rubric's criteria do not allow."""
    aggregation = wanted.over(content.aggregation.over(DEFAULT_AGGREGATION))
    check_options(aggregation, [content.criteria], NO_VOTES)
    return aggregation


def check_options(aggregation: Aggregation, lists: Iterable[Sequence[Criterion]], votes: Mapping[str, int]) -> None:
    """422 for options that these lists of criteria do not allow. `votes`: each judge's own number, where it is known."""
    for criteria in lists:
        for problem in mismatches(scoring_options(aggregation), criterion_weights(criteria, votes)):
            raise Invalid.at(f"/{'/'.join(problem.place)}", "invalid_option", problem.message)
