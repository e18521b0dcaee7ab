"""What can grade a completion on one criterion: verifiers, code in a sandbox, reward models, composites, judges; with its fields."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from service.domain.base import Value, refuse
from service.domain.code import GraderSource, TestsSource, is_template
from service.domain.conversation import Text
from service.domain.formula import FUNCTIONS, MAX_LENGTH, FormulaError, parse_formula
from service.domain.judge import Confidence, ModelId, Votes
from service.domain.template import check_template

Template = Annotated[Text, StringConstraints(min_length=1), AfterValidator(check_template)]
JudgeId = Annotated[str, StringConstraints(pattern=r"^jdg_[0-9a-z]+$")]


class ExactGrader(Value):
    """Hits when the completion equals the reference."""

    type: Literal["exact"]
    reference: Template
    ignore_case: bool = False
    strip: bool = True


class ContainsGrader(Value):
    """Hits when the completion contains all, or any, of the values."""

    type: Literal["contains"]
    values: Annotated[list[Template], Field(min_length=1, max_length=256)]
    mode: Literal["all", "any"] = "all"
    ignore_case: bool = False


class RegexGrader(Value):
    """Hits when the pattern is found (`must_match` true) or is not found (false)."""

    type: Literal["regex"]
    pattern: Annotated[Text, StringConstraints(min_length=1, max_length=4096)]
    must_match: bool = True


class NumericGrader(Value):
    """Hits when the extracted number is within the larger of the two tolerances of the reference."""

    type: Literal["numeric"]
    extract: Annotated[str, StringConstraints(pattern=r"^(last_number|regex:[\s\S]+)$")] = "last_number"
    reference: Template
    abs_tol: Annotated[float, Field(ge=0)] = 0.0
    rel_tol: Annotated[float, Field(ge=0)] = 0.0

    @model_validator(mode="after")
    def _has_group(self) -> NumericGrader:
        pattern = self.extract.removeprefix("regex:")
        if self.extract != "last_number":
            try:
                re.compile(pattern)
            except re.error as error:
                refuse((("extract",), "invalid_regex", f"the regular expression does not compile: {error}"))
        return self


class JsonSchemaGrader(Value):
    """Hits when the completion, or the first JSON object in it, satisfies the schema (draft 2020-12)."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, JsonValue] | bool, Field(alias="schema")]
    extract: Literal["whole", "first_object"] = "whole"

    model_config = {"populate_by_name": True, "serialize_by_alias": True}


_NOT_OFFERED = {
    "meteor": "it needs WordNet, which would have to be downloaded; rouge_l and gleu compare words without it",
    "cosine": "it needs an embedding model, and none comes with this version; use a judge, or bleu, gleu, rouge_1 … rouge_l",
}


def _offered(metric: Any) -> Any:
    if isinstance(metric, str) and metric in _NOT_OFFERED:
        raise PydanticCustomError(
            "unsupported_metric",
            "the metric '{metric}' is not offered: {why}",
            {"metric": metric, "why": _NOT_OFFERED[metric]},
        )
    return metric


Metric = Literal["fuzzy_match", "bleu", "gleu", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"]


class SimilarityGrader(Value):
    """How like the reference a completion is, in [0, 1]; with `threshold`, a hit from that similarity on."""

    type: Literal["similarity"]
    metric: Annotated[Metric, BeforeValidator(_offered)]
    reference: Template
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None


class RewardModelGrader(Value):
    """A registered model of kind `reward`: sigmoid((x − mean)/std) of its output x on prompt and completion."""

    type: Literal["reward_model"]
    model: ModelId


def _language(language: Any) -> Any:
    if isinstance(language, str) and language != "python":
        message = "tests in '{language}' are not offered; 'python' is"
        raise PydanticCustomError("unsupported_language", message, {"language": language})
    return language


TimeoutS = Annotated[float, Field(gt=0, le=120)]
MemoryMb = Annotated[int, Field(ge=32, le=2048)]


class UnitTestsGrader(Value):
    """The share of an author's tests that the completion's code passes, in a sandbox.

    `tests`: asserts or `test_*` functions, or one placeholder such as `{{ prompt.metadata.tests }}` for those of the prompt's row.
    """

    type: Literal["unit_tests"]
    language: Annotated[Literal["python"], BeforeValidator(_language)] = "python"
    tests: TestsSource
    timeout_s: TimeoutS = 10.0
    memory_mb: MemoryMb = 512


class PythonGrader(Value):
    """An author's `grade(sample, item)`, in a sandbox: a number in [0, 1] for `sample` {output_text, output_json}, `item` the row."""

    type: Literal["python"]
    source: GraderSource
    timeout_s: TimeoutS = 10.0
    memory_mb: MemoryMb = 512


_STANDS_ALONE = {
    "unit_tests": "code runs in a sandbox, apart from the other parts: make it a criterion of its own",
    "python": "code runs in a sandbox, apart from the other parts: make it a criterion of its own, or put the formula into it",
    "judge": "a judge's score has a critique and a confidence of its own, which a formula would lose: "
    "make it a criterion of its own",
    "composite": "a composite takes no other composite: one formula can hold both",
}


def _nests(grader: Any) -> Any:
    kind = grader.get("type") if isinstance(grader, dict) else getattr(grader, "type", None)
    if isinstance(kind, str) and kind in _STANDS_ALONE:
        raise PydanticCustomError("cannot_nest", "{why}", {"why": _STANDS_ALONE[kind]})
    return grader


PartName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
PartGrader = Annotated[
    Annotated[
        ExactGrader
        | ContainsGrader
        | RegexGrader
        | NumericGrader
        | JsonSchemaGrader
        | SimilarityGrader
        | RewardModelGrader,
        Field(discriminator="type"),
    ],
    BeforeValidator(_nests),
]


class CompositeGrader(Value):
    """A formula over the scores of named graders, e.g. `0.7 * right + 0.3 * short`; its value is the score, in [0, 1]."""

    type: Literal["composite"]
    formula: Annotated[Text, StringConstraints(min_length=1, max_length=MAX_LENGTH)]
    graders: Annotated[dict[PartName, PartGrader], Field(min_length=1, max_length=32)]

    @model_validator(mode="after")
    def _formula_and_graders_agree(self) -> CompositeGrader:
        taken = sorted(self.graders.keys() & FUNCTIONS.keys())
        if taken:
            refuse((("graders", taken[0]), "invalid_name", f"'{taken[0]}' is a function; give the grader another name"))
        try:
            used = set(parse_formula(self.formula).names)
        except FormulaError as error:
            refuse((("formula",), "invalid_formula", str(error)))
        for name in sorted(used - self.graders.keys()):
            known = ", ".join(sorted(self.graders))
            refuse((("formula",), "invalid_formula", f"the formula uses '{name}', and the graders are {known}"))
        for name in sorted(self.graders.keys() - used):
            refuse((("graders", name), "unused", f"the formula does not use '{name}'; take the grader out or use it"))
        return self


class JudgeGrader(Value):
    """An LLM that scores, with a critique and its confidence; absent fields are inherited from the judge."""

    type: Literal["judge"]
    judge: JudgeId
    votes: Votes | None = None
    confidence: Confidence | None = None

    @model_validator(mode="after")
    def _votes_for_their_agreement(self) -> JudgeGrader:
        if self.confidence == "votes" and self.votes == 1:
            refuse(
                (
                    ("votes",),
                    "contradiction",
                    "confidence 'votes' is the agreement of at least two votes; raise 'votes'",
                )
            )
        return self


Grader = Annotated[
    ExactGrader
    | ContainsGrader
    | RegexGrader
    | NumericGrader
    | JsonSchemaGrader
    | SimilarityGrader
    | UnitTestsGrader
    | PythonGrader
    | RewardModelGrader
    | CompositeGrader
    | JudgeGrader,
    Field(discriminator="type"),
]

GRADER_CONFIGS: dict[str, type[Value]] = {
    "exact": ExactGrader,
    "contains": ContainsGrader,
    "regex": RegexGrader,
    "numeric": NumericGrader,
    "json_schema": JsonSchemaGrader,
    "similarity": SimilarityGrader,
    "unit_tests": UnitTestsGrader,
    "python": PythonGrader,
    "reward_model": RewardModelGrader,
    "composite": CompositeGrader,
    "judge": JudgeGrader,
}
"""Type name -> fields. A test holds this against the workers' registry of graders."""


def parts_of(grader: Any) -> dict[str, Any]:
    """The graders that a grader runs, by the place below it (`graders/name` in a composite, else the grader itself at "")."""
    if isinstance(grader, CompositeGrader):
        return {f"/graders/{name}": grader.graders[name] for name in sorted(grader.graders)}
    return {"": grader}


def templates_of(grader: Any) -> list[str]:
    """Every template that a grader renders for a completion."""
    found: list[str] = []
    for part in parts_of(grader).values():
        if isinstance(part, ExactGrader | NumericGrader | SimilarityGrader):
            found.append(part.reference)
        if isinstance(part, ContainsGrader):
            found.extend(part.values)
        if isinstance(part, UnitTestsGrader) and is_template(part.tests):
            found.append(part.tests)
    return found


def reward_models_of(grader: Any) -> list[str]:
    """The reward models that a grader asks, each once, sorted."""
    return sorted({part.model for part in parts_of(grader).values() if isinstance(part, RewardModelGrader)})


def gives_number(grader: Any) -> bool:
    """Whether a grader's own answer is a number in [0, 1] rather than a hit or a miss (what a judge gives, its scale says).

    A grader, or what may become one.
    """
    fields = grader if isinstance(grader, dict) else getattr(grader, "__dict__", {})
    if fields.get("type") == "similarity":
        return fields.get("threshold") is None
    return fields.get("type") in ("composite", "reward_model", "unit_tests", "python")


def runs_code(grader: Any) -> bool:
    """Whether a grader runs code that nobody vouches for, which is done in a sandbox and nowhere else."""
    return isinstance(grader, UnitTestsGrader | PythonGrader)
