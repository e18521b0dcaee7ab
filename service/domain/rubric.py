"""Rubrics: criteria with weights and graders, as an immutable, hashed version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from service.domain.base import Loc, Value, content_hash, refuse
from service.domain.conversation import Name, NonEmptyText, Text
from service.domain.grader import Grader, JudgeGrader, gives_number, reward_models_of
from service.domain.origin import RubricOrigin

MAX_DEPTH = 8
"""How deep rubrics may include each other."""

MAX_CRITERIA = 500

PROMPT_PREFIX = "prompt"
"""The criteria of a prompt's own row join a rubric's under `prompt.<key>`."""

_NAME = r"[A-Za-z0-9][A-Za-z0-9_\-]{0,63}"
Key = Annotated[str, StringConstraints(pattern=rf"^{_NAME}$")]
"""A name that an author gives: no dots."""

FlatKey = Annotated[str, StringConstraints(pattern=rf"^{_NAME}(\.{_NAME}){{0,{MAX_DEPTH}}}$")]
"""A criterion's key once includes are flattened: `<as>.<as>.<key>`."""

RubricId = Annotated[str, StringConstraints(pattern=r"^rub_[0-9a-z]+$")]
VersionName = Annotated[int, Field(ge=1)] | NonEmptyText
"""A version's number, an alias, or `latest`."""

Share = Annotated[float, Field(ge=0, le=1)]


class Level(Value):
    """One answer of an ordinal or nominal scale; `value` is goodness, 1 is best."""

    label: Annotated[Text, StringConstraints(min_length=1, max_length=100)]
    value: Share
    anchor: Text = ""


class BooleanScale(Value):
    """Met or not met."""

    type: Literal["boolean"] = "boolean"


class UnitScale(Value):
    """A number in [0, 1]."""

    type: Literal["unit"]


class LevelScale(Value):
    """Named levels, ordered (`ordinal`) or not (`nominal`)."""

    type: Literal["ordinal", "nominal"]
    levels: Annotated[list[Level], Field(min_length=2, max_length=20)]

    @model_validator(mode="after")
    def _distinct_labels(self) -> LevelScale:
        seen: set[str] = set()
        for position, level in enumerate(self.levels):
            if level.label in seen:
                refuse((("levels", position, "label"), "duplicate", f"the label '{level.label}' stands twice"))
            seen.add(level.label)
        return self


Scale = Annotated[BooleanScale | UnitScale | LevelScale, Field(discriminator="type")]


class Gate(Value):
    """What a criterion does to the whole reward when its score is below `threshold` (grape.md §3).

    `required`: the reward becomes 0. `cap`: the reward is multiplied by `cap`, which keeps the order of what was gated.
    """

    mode: Literal["required", "cap"]
    threshold: Share = 0.5
    cap: Annotated[float, Field(ge=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _cap_goes_with_cap(self) -> Gate:
        if (self.mode == "cap") != (self.cap is not None):
            refuse(
                (
                    ("cap",),
                    "invalid_gate",
                    "a gate of mode 'cap' needs 'cap', the factor of the reward; 'required' has none",
                )
            )
        return self

    @property
    def factor(self) -> float:
        """What the reward is multiplied by when the gate trips."""
        return 0.0 if self.cap is None else self.cap


class AppliesTo(Value):
    """The prompts that a criterion is for: one of the categories, and one of the tags, where these are named."""

    categories: Annotated[list[Name], Field(min_length=1)] | None = None
    tags: Annotated[list[Name], Field(min_length=1)] | None = None

    def matches(self, category: str | None, tags: Sequence[str]) -> bool:
        """Decided per prompt, before grading; never per completion."""
        if self.categories is not None and category not in self.categories:
            return False
        return self.tags is None or any(tag in self.tags for tag in tags)


BLANK_LINES = r"\n[ \t]*\n\s*"
"""What steps are separated by unless the criterion names a pattern of its own."""


class Criterion(Value):
    """One thing that is graded."""

    key: FlatKey
    title: Text = ""
    text: Text = ""
    weight: Annotated[float, Field(gt=0, le=1e9)] | None = None
    polarity: Literal["met_is_good", "met_is_bad"] = "met_is_good"
    scale: Scale = BooleanScale()
    audit: bool = False
    default_confidence: Share | None = None
    tags: list[Name] = []
    applies_to: AppliesTo | None = None
    gate: Gate | None = None
    scope: Literal["completion", "step"] = "completion"
    step_separator: Annotated[Text, StringConstraints(min_length=1, max_length=1000)] | None = None
    step_pooling: Literal["mean", "min"] = "mean"
    grader: Grader

    @model_validator(mode="before")
    @classmethod
    def _scale_of_numbers(cls, data: Any) -> Any:
        """Boolean is the default, unless the grader gives a number."""
        if isinstance(data, dict) and "scale" not in data and gives_number(data.get("grader")):
            return {**data, "scale": {"type": "unit"}}
        return data

    @model_validator(mode="after")
    def _whole(self) -> Criterion:
        judged = isinstance(self.grader, JudgeGrader)
        if self.weight is None and not self.audit:
            refuse(
                (
                    ("weight",),
                    "missing",
                    f"criterion '{self.key}' needs a weight above 0 (only audit criteria may omit it)",
                )
            )
        if judged and not self.text.strip():
            refuse(
                (
                    ("text",),
                    "missing",
                    f"criterion '{self.key}' is judged, so it needs a text that tells the judge what to look for",
                )
            )
        if self.scale.type != "boolean" and self.polarity == "met_is_bad":
            refuse(
                (
                    ("polarity",),
                    "invalid_polarity",
                    "met_is_bad goes with a boolean scale; a number and the values of levels are goodness already",
                )
            )
        if isinstance(self.grader, JudgeGrader) and self.grader.confidence == "logprob" and self.scale.type == "unit":
            refuse(
                (
                    ("scale",),
                    "contradiction",
                    "confidence 'logprob' compares a few answers by their probabilities, and a unit scale has a continuum of "
                    "them; take an ordinal scale, e.g. with the labels 1 to 5",
                )
            )
        if gives_number(self.grader):
            if self.scale.type != "unit":
                refuse(
                    (("scale",), "invalid_scale", f"'{self.grader.type}' gives a number in [0, 1]; leave the scale out")
                )
        elif self.scale.type != "boolean" and not judged:
            refuse(
                (
                    ("scale",),
                    "invalid_scale",
                    f"a '{self.grader.type}' verifier hits or misses; leave the scale boolean",
                )
            )
        return self

    @model_validator(mode="after")
    def _gates_and_steps(self) -> Criterion:
        if self.gate is not None and self.audit:
            refuse((("gate",), "invalid_gate", "an audit criterion stands outside the reward, so it cannot gate it"))
        if self.scope == "step" and self.grader.type == "unit_tests":
            refuse((("scope",), "invalid_option", "tests run on the code of a whole completion; leave the scope out"))
        if self.scope != "step":
            for name in ("step_separator", "step_pooling"):
                if name in self.model_fields_set and getattr(self, name) != type(self).model_fields[name].default:
                    refuse(((name,), "invalid_option", f"'{name}' goes with scope 'step'"))
        return self

    @property
    def effective_weight(self) -> float:
        """The author's weight; 1 for an audit criterion without one."""
        return 1.0 if self.weight is None else self.weight


class Aggregation(Value):
    """How cells become a reward (grape.md §4); absent fields are inherited, at last from `DEFAULT_AGGREGATION`."""

    weighting: Literal["confidence", "uniform", "inverse_variance", "healthbench"] | None = None
    confidence_exponent: Annotated[float, Field(ge=0, le=8)] | None = None
    confidence_exponent_final: Annotated[float, Field(ge=0, le=8)] | None = None
    """The exponent at the last training step, reached in a straight line from `confidence_exponent`; null: it stays."""
    pooling: Literal["group", "shrunk"] | None = None
    min_coverage: Share | None = None
    on_subject_null: Literal["impute", "lowest_observed"] | None = None
    max_null_share: Share | None = None
    min_group_confidence: Share | None = None
    max_weight_share: Annotated[float, Field(gt=0, le=1)] | None = None
    prompt_criteria_weight: Annotated[float, Field(gt=0, le=1e9)] | None = None

    def over(self, base: Aggregation) -> Aggregation:
        """These fields where they are set, those of `base` elsewhere."""
        mine = self.model_dump(exclude_none=True)
        return Aggregation.model_validate({**base.model_dump(), **mine})


DEFAULT_AGGREGATION = Aggregation(
    weighting="confidence",
    confidence_exponent=1.0,
    pooling="group",
    min_coverage=0.5,
    on_subject_null="impute",
    max_null_share=0.1,
    min_group_confidence=0.0,
    max_weight_share=None,  # off
    prompt_criteria_weight=1.0,
)


class Include(Value):
    """Another rubric's criteria, as a module: its keys become `<as>.<key>`, its weights are multiplied by `weight`."""

    as_: Annotated[Key, Field(alias="as")]
    rubric: RubricId
    version: VersionName = "latest"
    weight: Annotated[float, Field(gt=0, le=1e9)] = 1.0

    model_config = {"populate_by_name": True, "serialize_by_alias": True}


class _Rubric(Value):
    """What authored and flattened content share. `system_prompt` is put before the prompts of the category when sampling."""

    guidelines: Text = ""
    system_prompt: Text = ""
    aggregation: Aggregation = Aggregation()


class RubricContent(_Rubric):
    """What good means, in criteria, without includes: what completions are graded by, and what is hashed.

    Key order has no meaning; nothing here changes once it is a version.
    """

    criteria: Annotated[list[Criterion], Field(min_length=1, max_length=MAX_CRITERIA)]

    @model_validator(mode="after")
    def _usable(self) -> RubricContent:
        refuse_duplicates(self.criteria)
        refuse_key_gate(self.criteria)
        if all(criterion.audit for criterion in self.criteria):
            refuse(
                (("criteria",), "no_criteria", "every criterion is an audit criterion, so there is nothing to reward")
            )
        return self

    @property
    def hash(self) -> str:
        """sha256 of the canonical JSON of the content with its defaults filled in."""
        return content_hash(self.model_dump(mode="json"))

    def judge_ids(self) -> list[str]:
        """The judges that it needs, each once, sorted."""
        return sorted({c.grader.judge for c in self.criteria if isinstance(c.grader, JudgeGrader)})

    def reward_models(self) -> list[str]:
        """The reward models that it needs, each once, sorted."""
        return sorted({model for c in self.criteria for model in reward_models_of(c.grader)})


class AuthoredContent(_Rubric):
    """A rubric as people write it: own criteria, and other rubrics' by `includes`. `service.domain.includes` flattens it."""

    includes: Annotated[list[Include], Field(max_length=50, exclude_if=lambda value: not value)] = []
    criteria: Annotated[list[Criterion], Field(max_length=MAX_CRITERIA)] = []
    origin: Annotated[RubricOrigin | None, Field(exclude_if=lambda value: value is None)] = None

    @model_validator(mode="after")
    def _usable(self) -> AuthoredContent:
        if not self.criteria and not self.includes:
            refuse((("criteria",), "missing", "a rubric needs criteria, its own or by 'includes'"))
        refuse_duplicates(self.criteria)
        refuse_dots(self.criteria)
        refuse_key_gate(self.criteria)
        self._refuse_prompt()
        seen: set[str] = set()
        for position, include in enumerate(self.includes):
            place = ("includes", position, "as")
            if include.as_ == PROMPT_PREFIX:
                refuse(
                    (place, "reserved", "'prompt' is the prefix of the criteria that prompts bring along; take another")
                )
            if include.as_ in seen:
                refuse((place, "duplicate", f"the name '{include.as_}' stands twice; each include needs its own"))
            seen.add(include.as_)
        if not self.includes and all(criterion.audit for criterion in self.criteria):
            refuse(
                (("criteria",), "no_criteria", "every criterion is an audit criterion, so there is nothing to reward")
            )
        return self

    def _refuse_prompt(self) -> None:
        names: list[tuple[Loc, str]] = [(("criteria", k, "key"), c.key) for k, c in enumerate(self.criteria)]
        names += [(("includes", k, "as"), include.as_) for k, include in enumerate(self.includes)]
        for place, name in names:
            if name == PROMPT_PREFIX:
                refuse(
                    (place, "reserved", "'prompt' is the name of the criteria that prompts bring along; take another")
                )


def refuse_duplicates(criteria: Sequence[Criterion], place: Loc = ("criteria",)) -> None:
    """Refuse a key that stands twice; `place` is where the list stands."""
    seen: set[str] = set()
    for position, criterion in enumerate(criteria):
        if criterion.key in seen:
            refuse(((*place, position, "key"), "duplicate", f"the key '{criterion.key}' stands twice"))
        seen.add(criterion.key)


def refuse_dots(criteria: Sequence[Criterion], place: Loc = ("criteria",)) -> None:
    """Refuse a dot in a key that a person has written: dots come from includes."""
    for position, criterion in enumerate(criteria):
        if "." in criterion.key:
            refuse(
                (
                    (*place, position, "key"),
                    "invalid_key",
                    f"the key '{criterion.key}' holds a dot; keys are letters, digits, - and _, and dots come from includes",
                )
            )


def refuse_key_gate(criteria: Sequence[Criterion]) -> None:
    """Refuse the key `gate` beside a gate: the part of an advantage that gates make stands under that name."""
    if not any(criterion.gate is not None for criterion in criteria):
        return
    for position, criterion in enumerate(criteria):
        if criterion.key == "gate":
            message = (
                "in a rubric with gates the key 'gate' is taken: an advantage's part 'gate' is what gates did to it"
            )
            refuse((("criteria", position, "key"), "reserved", message))


class RubricRef(Value):
    """A version of a rubric, by number or alias."""

    id: RubricId
    version: VersionName = "latest"
