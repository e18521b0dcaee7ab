"""Rows of datasets from other formats and back.

A row that came from elsewhere keeps its `origin`: the format, and what our fields do not give back. So whatever the reading lost,
writing it in its own format gives the same JSON values again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from service.domain.dataset import MODELS, DatasetKind
from service.domain.formats import openai_rows, pairs, prompts, trl
from service.domain.formats.reading import OWN_FIELDS, Options, Reading, Shape
from service.domain.formats.source import FormatError, Source, fail, remainder, restored

SHAPES: tuple[Shape, ...] = (*prompts.SHAPES, *pairs.SHAPES, *openai_rows.SHAPES, *trl.SHAPES)
"""The most distinct ones first: a row of an unknown format is of the first that it shows."""

FORMATS = tuple(dict.fromkeys(shape.format for shape in SHAPES))
OURS = "grape"
AUTO = "auto"
AS_IMPORTED = "as_imported"
_BY_NAME = {(shape.format, shape.name): shape for shape in SHAPES}


@dataclass(slots=True)
class Importer:
    """Turns the rows of one file into ours. `format` `auto` becomes the format of the first row, which then holds for all."""

    kind: DatasetKind
    format: str = AUTO
    options: Options = field(default_factory=Options)
    last: Shape | None = None

    def read(self, row: Any) -> dict[str, Any]:
        """Our row; `FormatError` with places in the given one."""
        if not isinstance(row, dict):
            fail("", "object_type", "a row is a JSON object")
        self.last = None
        if self.format == AUTO:
            self.format = self._detected(row)
        if self.format == OURS:
            return row
        shape = next((s for s in SHAPES if s.format == self.format and s.signs(row)), None)
        if shape is None:
            known = " or ".join(dict.fromkeys(s.name for s in SHAPES if s.format == self.format))
            fail("", "not_this_format", f"the fields {_listed(row)} are no row of {self.format} ({known})")
        self.last = shape
        source = Source(row)
        content = shape.read(source, self.options).content(self.kind)
        self._add_rest(source, content)
        fields, absent = remainder(row, _written(shape, content, self.kind, exact=True))
        content["origin"] = {"format": shape.format, "shape": shape.name, "fields": fields, "absent": absent}
        return content

    def place(self, pointer: str) -> str:
        """Where in the given row something stands that is wrong with ours."""
        if self.last is None:
            return pointer
        first, _, rest = pointer.lstrip("/").partition("/")
        name = self.last.names.get(first, first)
        return f"/{name}/{rest}" if rest and name == first else f"/{name}" if name else pointer

    def _detected(self, row: Mapping[str, Any]) -> str:
        if row.keys() <= MODELS[self.kind].model_fields.keys() and row.keys() & _OURS_ALONE:
            return OURS
        found = next((shape.format for shape in SHAPES if shape.shows(row)), None)
        if found is None:
            known = ", ".join((*FORMATS, OURS))
            fail(
                "",
                "unknown_format",
                f"the fields {_listed(row)} are no format that is known here ({known}); name one: format=…",
            )
        return found

    def _add_rest(self, source: Source, content: dict[str, Any]) -> None:
        """Fields with our names and values become our fields; all others are kept as metadata."""
        metadata: dict[str, Any] = {}
        for name, value in source.rest().items():
            if name in _FITS and name in OWN_FIELDS[self.kind] and name not in content and _FITS[name](value):
                content[name] = value
            elif name == "metadata" and isinstance(value, dict):
                metadata = {**value, **metadata}
            else:
                metadata[name] = value
        if metadata:
            content["metadata"] = metadata


def write(content: Mapping[str, Any], kind: DatasetKind, wanted: str) -> dict[str, Any]:
    """One of our rows in a format: as it was if it came from there, else as that format writes it; `FormatError` if it cannot."""
    if wanted == OURS:
        return dict(content)
    origin = content.get("origin")
    if wanted == AS_IMPORTED and origin is None:
        return dict(content)
    if origin is not None and wanted in (AS_IMPORTED, origin["format"]):
        shape = _BY_NAME.get((origin["format"], origin["shape"]))
        if shape is not None:
            written = _written(shape, content, kind, exact=True)
            return restored(written, origin.get("fields", {}), origin.get("absent", ()))
    shapes = [shape for shape in SHAPES if shape.format == wanted and kind in shape.exports]
    if not shapes:
        fail(
            "", "not_writable", f"rows of kind {kind} cannot be written as {wanted}, unless they were imported from it"
        )
    joined = len(shapes) > 1 and Reading.of(content, kind).joined
    return _written(shapes[-1 if joined else 0], content, kind, exact=False)


def _written(shape: Shape, content: Mapping[str, Any], kind: DatasetKind, *, exact: bool) -> dict[str, Any]:
    """A row in a shape: unmapped fields, own fields, and what the shape writes. `exact`: what it cannot write is the remainder's."""
    reading = Reading.of(content, kind)
    kept = {name: value for name, value in reading.own.items() if name not in shape.owns}
    try:
        written = shape.write(reading)
    except FormatError:
        if not exact:
            raise
        written = {}
    return {**content.get("metadata", {}), **kept, **written}


def _listed(row: Mapping[str, Any]) -> str:
    names = ", ".join(f"'{name}'" for name in sorted(row)[:12])
    return f"{names}, …" if len(row) > 12 else names or "(none)"


_OURS_ALONE = {"criteria", "origin", "lineage", "metadata", "reference", "category", "tags", "weight", "margin"}
"""Names that show a row of our own when it has no others."""

_FITS: dict[str, Any] = {
    "reference": lambda value: value is not None,
    "category": lambda value: isinstance(value, str) and 0 < len(value.strip()) == len(value) <= 200,
    "tags": lambda value: (
        isinstance(value, list)
        and all(isinstance(tag, str) and 0 < len(tag.strip()) == len(tag) <= 200 for tag in value)
    ),
    "weight": lambda value: _is_number(value) and value > 0,
    "margin": lambda value: _is_number(value) and 0 <= value <= 1e6,
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
