"""What a grading grades by: the version that its request has pinned, or the one that a stored completion was graded by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.domain.calibration import Calibrator
from service.domain.criteria import criteria_of, criterion_weights
from service.domain.grading import scoring_options
from service.domain.pinned import PinnedRubrics
from service.domain.revision_request import prompt_with_votes
from service.domain.rubric import DEFAULT_AGGREGATION, Aggregation, Criterion, RubricContent
from service.domain.scoring import GroupCells, ScoredGroup, ScoringOptions, mismatches, score_groups
from workers.runs.gradings import GradingFailure, HeldGrading


@dataclass(frozen=True, slots=True)
class GradedBy:
    """A version with the grading's aggregation over its author's. `name`: what the grading calls it."""

    name: str
    id: str
    version: int
    content: RubricContent
    aggregation: Aggregation
    options: ScoringOptions
    calibrator: Calibrator = field(default_factory=Calibrator)

    def own_score(self, reward: float | None) -> dict[str, float | None]:
        """The reward for the summary, where it means something outside its group."""
        return {"reward": reward} if self.options.weighting == "healthbench" else {}


@dataclass(slots=True)
class Rubrics:
    """The versions of one grading, each parsed once."""

    held: HeldGrading
    pinned: PinnedRubrics | None = field(init=False)
    _contents: dict[tuple[str, int], RubricContent] = field(default_factory=dict)
    _versions: dict[tuple[str, int], GradedBy] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pinned = PinnedRubrics.of(self.held.grading.resolved)

    @property
    def names(self) -> Mapping[str, str] | None:
        """The pinned versions by category; null where each completion keeps the version that it was graded by."""
        return self.pinned.by_category if self.pinned is not None else None

    @property
    def all_pinned(self) -> list[GradedBy]:
        """The pinned versions."""
        return [self.now(category) for category in self.names or ()]

    def load_all(self, kinds: Iterable[Any]) -> None:
        """Read the versions that stored completions were graded by, and those that their cells were asked by."""
        pins = {
            pin
            for kind in kinds
            for pin in ((kind.rubric_id, kind.rubric_version), (kind.asked_id, kind.asked_version))
        }
        unknown = pins - self._contents.keys()
        if unknown:
            for pin, content in self.held.versions(unknown).items():
                self._contents[pin] = RubricContent.model_validate(content)

    @property
    def local_judges(self) -> Mapping[str, str]:
        """The judges that are registered models."""
        found: dict[str, str] = self.held.grading.resolved.get("local_judges", {})
        return found

    @property
    def fresh(self) -> bool:
        """Whether judges are asked for cells that are known."""
        return bool(self.held.grading.resolved.get("fresh"))

    def asked(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """The prompt as it is asked about: its own criteria with at least the votes that the grading wants."""
        votes = self.held.grading.resolved.get("votes")
        return prompt if votes is None else prompt_with_votes(prompt, votes, self.held.grading.resolved["judge_votes"])

    def require_allowed(self, by: GradedBy, criteria: Sequence[Criterion]) -> None:
        """`GradingFailure` for a prompt whose own criteria do not allow the options: before anybody is asked about it."""
        votes = self.held.grading.resolved.get("judge_votes", {})
        for problem in mismatches(by.options, criterion_weights(criteria, votes)):
            raise GradingFailure(
                "rubric_invalid", f"a prompt's own criteria with version {by.version} of {by.id}: {problem.message}"
            )

    def content(self, rubric_id: str, version: int) -> RubricContent:
        """A version that has been loaded."""
        return self._contents[rubric_id, version]

    def now(self, category: str | None, rubric_id: str = "", version: int = 0) -> GradedBy:
        """What prompts of a category are graded by now: the version that is pinned for it, else this one."""
        if self.pinned is None:
            return self._version("", (rubric_id, version), None)
        name = self.pinned.name_for(category)
        if name is None:
            what = "has no category" if category is None else f"has the category '{category}'"
            message = f"a prompt {what}, for which no rubric was named; name one, or one for '*': all other categories"
            raise GradingFailure("no_rubric", message)
        found = self.pinned.versions[name]
        return self._version(name, (found["id"], found["version"]), found)

    def _version(self, name: str, pin: tuple[str, int], pinned: Mapping[str, Any] | None) -> GradedBy:
        if pin not in self._versions:
            content = RubricContent.model_validate(pinned["content"]) if pinned else self._contents[pin]
            if pinned is not None and pinned.get("aggregation") is not None:
                aggregation = Aggregation.model_validate(pinned["aggregation"])
            else:
                over = Aggregation.model_validate(self.held.grading.resolved["aggregation"])
                aggregation = over.over(content.aggregation.over(DEFAULT_AGGREGATION))
            calibrator = Calibrator.of(self.held.grading.resolved, content)
            self._versions[pin] = GradedBy(name, *pin, content, aggregation, scoring_options(aggregation), calibrator)
        return self._versions[pin]


def score_by(cells: GroupCells, by: GradedBy) -> ScoredGroup:
    """One group that stands alone, without a history. `GradingFailure` for options that its criteria do not allow."""
    try:
        return score_groups([cells], by.options)[0]
    except ValueError as error:
        raise GradingFailure("rubric_invalid", f"version {by.version} of {by.id}: {error}") from None


def criteria_for(by: GradedBy, prompt: Mapping[str, Any]) -> list[Criterion]:
    """What a prompt is graded on: decided by its category, tags and own criteria."""
    assert by.aggregation.prompt_criteria_weight is not None
    return criteria_of(by.content, prompt, by.aggregation.prompt_criteria_weight)
