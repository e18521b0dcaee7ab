"""What can grade a completion on one criterion: verifiers and judges, each with its own fields."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, JsonValue, StringConstraints, model_validator

from service.domain.base import Value, refuse
from service.domain.conversation import Text
from service.domain.judge import Confidence, Votes
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


class JudgeGrader(Value):
    """An LLM that scores, with a critique and its confidence; absent fields are inherited from the judge."""

    type: Literal["judge"]
    judge: JudgeId
    votes: Votes | None = None
    confidence: Confidence | None = None


Grader = Annotated[
    ExactGrader | ContainsGrader | RegexGrader | NumericGrader | JsonSchemaGrader | JudgeGrader,
    Field(discriminator="type"),
]

GRADER_CONFIGS: dict[str, type[Value]] = {
    "exact": ExactGrader,
    "contains": ContainsGrader,
    "regex": RegexGrader,
    "numeric": NumericGrader,
    "json_schema": JsonSchemaGrader,
    "judge": JudgeGrader,
}
"""Type name -> fields. A test holds this against the workers' registry of graders."""


def templates_of(grader: Any) -> list[str]:
    """Every template that a grader renders for a completion."""
    found: list[str] = []
    if isinstance(grader, ExactGrader | NumericGrader):
        found.append(grader.reference)
    if isinstance(grader, ContainsGrader):
        found.extend(grader.values)
    return found
