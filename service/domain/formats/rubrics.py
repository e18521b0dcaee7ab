"""Rubrics from files of other formats and back.

What ours does not hold is kept in the content's `origin`, which stands beside the criteria: graders never see it, and it is no part
of the hash. A criterion that was changed since its import is written anew; all others give the same JSON values again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

from service.domain.formats import openai_graders
from service.domain.formats.items import read_points, read_weighted, write_points, write_weighted
from service.domain.formats.reading import Options
from service.domain.formats.rubric_base import Note, ReadRubric, item_of, key_of, origin_of
from service.domain.formats.source import FormatError, Source, fail
from service.domain.formats.yaml_text import read_yaml

DEEPEST = 100
"""How many lists and objects of a file may stand in each other, as in every body of a request."""

FORMATS = ("healthbench", "rar", "openai_grader", "json", "yaml")
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")
_LISTS = {"healthbench": "rubrics", "rar": "rubric"}
_READ = {"healthbench": read_points, "rar": read_weighted}
_WRITE = {"healthbench": write_points, "rar": write_weighted}


def parse(text: bytes, format_name: str) -> Any:
    """The JSON value of a file; `FormatError` with what is wrong with it."""
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        fail("", "not_utf8", f"the file is not UTF-8: byte {error.start} cannot be read")
    document = read_yaml(decoded) if format_name == "yaml" else _read_json(decoded)
    try:
        again = json.dumps(document, ensure_ascii=False, allow_nan=False)
        again.encode()
    except (ValueError, TypeError, RecursionError) as error:
        fail("", "not_json", f"the file holds a value that JSON does not have: {error}")
    if _deeper_than(document, DEEPEST):
        fail("", "too_deep", f"the file nests lists and objects more than {DEEPEST} deep")
    if _NUL.search(again):
        fail("", "nul_character", "the file contains a NUL character (U+0000), which cannot be stored; remove it")
    return document


def _deeper_than(document: Any, limit: int) -> bool:
    level = [document]
    for _ in range(limit + 1):
        level = [inner for value in level for inner in _inside(value)]
        if not level:
            return False
    return True


def _inside(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twin = next(name for name in names if names.count(name) > 1)
        fail("", "duplicate_field", f"the field '{twin}' stands twice in one object; which one is meant?")
    return found


def _read_json(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_twins)
    except FormatError:
        raise
    except (ValueError, RecursionError) as error:
        lines = [line for line in text.splitlines() if line.strip()]
        if len(lines) > 1 and all(line.lstrip().startswith("{") for line in lines[:2]):
            message = "the file has a JSON object a line; a rubric is one of them, and many prompts with criteria are a dataset's rows"
            fail("", "many_rows", f"{message}: POST /v1/datasets/{{id}}/import")
        fail("", "json_invalid", f"the file is not valid JSON: {error}")


def read(document: Any, format_name: str, options: Options) -> ReadRubric:
    """A rubric out of a file's value; `FormatError` with places in it."""
    if format_name in ("json", "yaml"):
        return _ours(document)
    if format_name == "openai_grader":
        return openai_graders.read(document, options)
    return _items(document, format_name, options)


def write(content: Mapping[str, Any], format_name: str, head: Mapping[str, Any]) -> Any:
    """A version as a value of the format; `FormatError` if it cannot say it. `head`: name, category and description."""
    if format_name in ("json", "yaml"):
        return {**head, "content": dict(content)}
    origin = content.get("origin")
    origin = origin if origin is not None and origin["format"] == format_name else None
    if content.get("includes"):
        fail("", "not_writable", f"the rubric includes others, which {format_name} cannot say; export json or yaml")
    if format_name == "openai_grader":
        return openai_graders.write(content, origin)
    items = [item_of(criterion, origin, _WRITE[format_name]) for criterion in content["criteria"]]
    if origin is not None and origin["shape"] == "list":
        return items
    return {**(origin["fields"] if origin is not None else {}), _LISTS[format_name]: items}


def as_text(document: Any, format_name: str) -> str:
    """The text of a file that holds this value."""
    if format_name == "yaml":
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _ours(document: Any) -> ReadRubric:
    """The whole rubric with its head, or its content alone."""
    if not isinstance(document, dict):
        fail("", "object_type", "a rubric is an object with 'criteria', or with 'name' and 'content'")
    if "content" not in document:
        return ReadRubric(document)
    source = Source(document)
    content = dict(source.inner("content").row)
    texts = {name: source.text(name) for name in ("name", "category", "description") if source.has(name)}
    unknown = source.rest().keys() - {"name", "category", "description"}
    if unknown:
        known = "name, category, description and content"
        fail(f"/{min(unknown)}", "unknown_field", f"unknown field '{min(unknown)}'; a rubric's file has {known}")
    return ReadRubric(content, texts.get("name"), texts.get("category"), texts.get("description"))


def _items(document: Any, format_name: str, options: Options) -> ReadRubric:
    """HealthBench and RaR: one row of a file, or its list of criteria alone."""
    bare = isinstance(document, list)
    name = _LISTS[format_name]
    if bare and any(isinstance(item, dict) and name in item for item in document):
        message = (
            "the file holds several rows, each with criteria of its own; import them into a dataset of kind prompts"
        )
        fail("", "many_rows", message)
    if not bare and not isinstance(document, dict):
        fail("", "object_type", f"a rubric of {format_name} is an object with '{name}', or the list itself")
    values = {name: document} if bare else document
    source = Source(values)
    taken: set[str] = set()
    criteria = []
    for position, criterion in enumerate(_READ[format_name](source, name, options)):
        key = key_of(criterion.get("title", ""), taken, f"c{position + 1}")
        criteria.append({"key": key, **criterion})
    shape = {"format": format_name, "shape": "list" if bare else "row", "fields": source.rest()}
    origin = origin_of(shape, criteria, values[name], _WRITE[format_name])
    place = "" if bare else f"/{name}"
    notes = [
        Note(f"{place}/{k}", f"a pitfall, read as {c['polarity']} from its first words: '{c['text'][:80]}'")
        for k, c in enumerate(criteria)
        if options.polarity == "from_prefix" and "Pitfall" in c.get("tags", ()) and "polarity" not in values[name][k]
    ]
    return ReadRubric({"criteria": criteria, "origin": origin}, notes=notes)
