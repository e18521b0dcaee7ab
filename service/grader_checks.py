"""Graders that could never grade anything, found before they are stored: in a rubric at publish, in a prompt's row at ingest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jsonschema
import regex
from jsonschema_specifications import REGISTRY
from referencing import Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from service.domain.grader import JsonSchemaGrader, JudgeGrader, RegexGrader, parts_of
from service.domain.rubric import Criterion
from service.domain.template import misused


def grader_faults(criteria: Sequence[Criterion], place: str) -> list[dict[str, str]]:
    """What is wrong, with pointers below `place`, the pointer of the list of criteria."""
    return [
        {"pointer": f"{place}/{position}/{field}", "code": code, "message": message}
        for position, criterion in enumerate(criteria)
        for field, code, message in (
            *_text_faults(criterion),
            *_separator_faults(criterion),
            *_grader_faults(criterion),
        )
    ]


def _grader_faults(criterion: Criterion) -> Iterator[tuple[str, str, str]]:
    for below, grader in parts_of(criterion.grader).items():
        for field, code, message in _faults(grader):
            yield f"grader{below}/{field}", code, message


def _text_faults(criterion: Criterion) -> Iterator[tuple[str, str, str]]:
    if isinstance(criterion.grader, JudgeGrader):
        for name in misused(criterion.text):
            known = "prompt.reference, prompt.metadata and prompt.category"
            message = f"'{{{{ {name} }}}}' cannot stand in what a judge is asked; it may refer to {known}"
            yield "text", "invalid_template", message


def _separator_faults(criterion: Criterion) -> Iterator[tuple[str, str, str]]:
    if criterion.step_separator is not None:
        try:
            regex.compile(criterion.step_separator)
        except regex.error as error:
            yield "step_separator", "invalid_regex", f"the regular expression does not compile: {error}"


def _faults(grader: Any) -> Iterator[tuple[str, str, str]]:
    if isinstance(grader, RegexGrader):
        try:
            regex.compile(grader.pattern)
        except regex.error as error:
            yield "pattern", "invalid_regex", f"the regular expression does not compile: {error}"
    if isinstance(grader, JsonSchemaGrader):
        try:
            jsonschema.Draft202012Validator.check_schema(grader.schema_)
        except jsonschema.SchemaError as error:
            yield "schema", "invalid_schema", f"this is no JSON schema (draft 2020-12): {error.message}"
            return
        try:
            dangling = list(_dangling_refs(grader.schema_))
        except ValueError as error:  # an address in it that cannot be taken apart
            yield "schema", "invalid_schema", f"an '$id' or '$ref' of the schema is no address: {error}"
            return
        for ref in dangling:
            yield "schema", "invalid_schema", f"'$ref': '{ref}' is not in this schema, and nothing is fetched"


def _dangling_refs(schema: Any) -> Iterator[str]:
    """The references of a schema that lead out of it (to a server, or nowhere)."""
    root: Resource[Any] = Resource.from_contents(schema, default_specification=DRAFT202012)
    # Unknown URLs raise: a registry without `retrieve` fetches nothing.
    resolver = REGISTRY.with_resource(root.id() or "", root).crawl().resolver_with_root(root)
    waiting = [(root, resolver)]
    while waiting:
        here, resolver = waiting.pop()
        found = here.contents if isinstance(here.contents, dict) else {}
        for ref in (found.get("$ref"), found.get("$dynamicRef")):
            if isinstance(ref, str):
                try:
                    resolver.lookup(ref)
                except Unresolvable:
                    yield ref
        waiting.extend((inner, resolver.in_subresource(inner)) for inner in here.subresources())
