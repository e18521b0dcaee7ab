"""Which version of which rubric a prompt is graded by, as it was pinned at submit and stands in a job's `resolved`.

`resolved["rubrics"]` has each version once, by name: id, number, hash, flat content, and the aggregation that its groups are
scored with. `resolved["rubric"]` and `resolved["evaluation_rubric"]` say by category whose criteria count; `*` stands for all
categories that are not named. `resolved["revision_rubric"]` names the same versions as `…#afresh`: with the votes that revisions and
their originals are graded with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from service.domain.rubric import Aggregation

ANY_CATEGORY = "*"


def version_name(rubric_id: str, number: int) -> str:
    """The name of a version inside a job, e.g. `rub_…@3`."""
    return f"{rubric_id}@{number}"


def pinned_version(resolved: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The version that a batch of cells names. Gradings, and jobs of the first release, have theirs beside the rest."""
    found: dict[str, Any] = resolved.get("rubrics", {}).get(name) or resolved[name]
    return found


def calibration_versions(resolved: Mapping[str, Any]) -> dict[str, int]:
    """Judge -> the version of its calibration, for judges whose confidence is calibrated."""
    return {judge: found["version"] for judge, found in resolved.get("calibrations", {}).items()}


@dataclass(frozen=True, slots=True)
class PinnedRubrics:
    """Names of versions by category, and the versions by name."""

    by_category: Mapping[str, str]
    versions: Mapping[str, dict[str, Any]]

    @classmethod
    def of(cls, resolved: Mapping[str, Any], field: str = "rubric") -> PinnedRubrics | None:
        """The rubrics of a job, or (`evaluation_rubric`) those of its evaluation; nothing if it has none."""
        found = resolved.get(field)
        if found is None:
            return None
        if "content" in found:  # a job of the first release, which had one rubric
            return cls({ANY_CATEGORY: field}, {field: found})
        return cls(found, {name: resolved["rubrics"][name] for name in dict.fromkeys(found.values())})

    def name_for(self, category: str | None) -> str | None:
        """The version for a prompt of this category; nothing if there is neither one of its own nor a default."""
        if category is not None and category in self.by_category:
            return self.by_category[category]
        return self.by_category.get(ANY_CATEGORY)

    def written(self) -> dict[str, Any]:
        """One version as people see it, or all by category, each with what its groups are scored by."""
        if set(self.by_category) == {ANY_CATEGORY}:
            return self.show()
        return self.shown_by_category()

    def shown_by_category(self) -> dict[str, Any]:
        """Every version by category, with the aggregation that its groups are scored by."""
        return {
            category: {**self.show(category), "aggregation": self.versions[name].get("aggregation")}
            for category, name in self.by_category.items()
        }

    def show(self, category: str = ANY_CATEGORY) -> dict[str, Any]:
        """A version as people see it."""
        version = self.versions[self.by_category[category]]
        return {name: version[name] for name in ("id", "version", "hash")}


def common(aggregations: Iterable[Aggregation]) -> Aggregation:
    """The fields on which all agree; null where they differ."""
    first, *others = [aggregation.model_dump() for aggregation in aggregations]
    return Aggregation.model_validate(
        {name: value if all(other[name] == value for other in others) else None for name, value in first.items()}
    )
