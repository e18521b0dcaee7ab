"""Reading NDJSON from a request, line by line, in constant memory."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from service.datasets.schemas import RowError
from service.domain.base import canonical_json, own_faults, pointer
from service.domain.dataset import ROWS, PromptRow
from service.domain.formats.rows import Importer
from service.domain.formats.source import FormatError
from service.domain.inherited import JudgeFacts, contradictions
from service.domain.rubric import Criterion
from service.errors import BadRequest, Invalid
from service.grader_checks import grader_faults

LINE_LIMIT = 8 << 20
REPORTED_ERRORS = 100
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


async def decoded(stream: AsyncIterator[bytes], encoding: str, digest: Any) -> AsyncIterator[bytes]:
    """The body's bytes, inflated if it is gzip; `digest` sees them as they were sent."""
    if encoding not in ("", "identity", "gzip"):
        raise BadRequest(
            f"the Content-Encoding '{encoding}' is not supported; send gzip or none", code="unsupported_encoding"
        )
    inflate = _gunzip() if encoding == "gzip" else None
    async for piece in stream:
        digest.update(piece)
        if inflate is None:
            yield piece
            continue
        try:
            rest = piece
            while rest:
                if inflate.eof:  # a gzip file may have several members (RFC 1952 §2.2): `cat a.gz b.gz`, bgzip
                    rest = rest.lstrip(b"\0")  # padding, which gzip passes over too
                    if not rest:
                        break
                    inflate = _gunzip()
                # A bounded piece at a time, so that a bomb meets the line limit and not the memory.
                yield inflate.decompress(rest, 1 << 20)
                rest = inflate.unconsumed_tail or inflate.unused_data
        except zlib.error as error:
            raise BadRequest(f"the body is not valid gzip: {error}", code="invalid_gzip") from None
    if inflate is not None and not inflate.eof:
        raise BadRequest("the gzip body ends too early", code="invalid_gzip")


def _gunzip() -> Any:
    return zlib.decompressobj(16 + zlib.MAX_WBITS)


async def lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The lines of the body, without their ends; a byte order mark is dropped."""
    rest = b""
    first = True
    async for piece in pieces:
        parts = (rest + piece).split(b"\n")
        rest = parts.pop()
        if len(rest) > LINE_LIMIT:
            raise Invalid(
                f"a line is longer than {LINE_LIMIT >> 20} MB; is this NDJSON, one JSON object per line?",
                code="line_too_long",
            )
        for part in parts:
            yield part.removeprefix(b"\xef\xbb\xbf") if first else part
            first = False
    if rest:
        yield rest.removeprefix(b"\xef\xbb\xbf") if first else rest


@dataclass(slots=True)
class RowReader:
    """Checks lines against a kind of row, and keeps what is wrong with them."""

    kind: str
    importer: Importer | None = None
    """What makes our rows of another format's; null: the lines are ours."""
    judges: Mapping[str, JudgeFacts] = field(default_factory=dict)
    """The project's judges, for what rows' own criteria ask of them."""
    errors: list[RowError] = field(default_factory=list)
    error_count: int = 0
    line: int = 0

    def read(self, raw: bytes) -> tuple[str, bytes] | None:
        """The row's canonical JSON and its hash; nothing for an empty or a faulty line."""
        self.line += 1
        if not raw.strip():
            return None
        if _NUL.search(raw) or b"\x00" in raw:
            self._fault("", "nul_character", "the line contains a NUL character (U+0000), which cannot be stored")
            return None
        if self.importer is not None:
            converted = self._converted(raw, self.importer)
            if converted is None:
                return None
            raw = converted
        try:
            row = ROWS[self.kind].validate_json(raw)
            text = canonical_json(row.model_dump(mode="json", exclude_unset=True))
        except ValidationError as error:
            found = own_faults(error.errors(include_url=False))
            for item in found:
                place = self._place(pointer(item["loc"], _parsed(raw)))
                self._fault(place, item["type"], item["msg"].removeprefix("Value error, "))
            self.error_count -= len(found) - 1  # count lines, not faults
            return None
        except ValueError as error:  # NaN or infinity inside free JSON
            self._fault("", "invalid_number", f"the line holds a number that JSON does not have: {error}")
            return None
        faults = self._criteria_faults(row.criteria) if isinstance(row, PromptRow) else []
        for fault in faults:
            self._fault(self._place(fault["pointer"]), fault["code"], fault["message"])
        if faults:
            self.error_count -= len(faults) - 1
            return None
        return text, hashlib.sha256(text.encode()).digest()

    def _criteria_faults(self, criteria: Sequence[Criterion]) -> list[dict[str, str]]:
        """Graders that cannot work, and criteria that their judges cannot be asked. An unknown judge may still be made."""
        return grader_faults(criteria, "/criteria") + [
            {"pointer": f"/criteria/{position}/{found.place}", "code": "contradiction", "message": found.message}
            for position, criterion in enumerate(criteria)
            for found in contradictions(criterion, self.judges)
        ]

    def _converted(self, raw: bytes, importer: Importer) -> bytes | None:
        """The line as a row of ours, not yet checked; nothing for one that is faulty already."""
        try:
            return canonical_json(importer.read(from_json(raw, allow_inf_nan=False))).encode()
        except FormatError as error:
            for fault in error.faults:
                self._fault(fault.pointer, fault.code, fault.message)
            self.error_count -= len(error.faults) - 1
        except ValueError as error:
            self._fault("", "json_invalid", f"the line is not valid JSON: {error}")
        return None

    def _place(self, place: str) -> str:
        """Where something stands in the line that was sent."""
        return place if self.importer is None else self.importer.place(place)

    def _fault(self, place: str, code: str, message: str) -> None:
        self.error_count += 1
        if len(self.errors) < REPORTED_ERRORS:
            self.errors.append(RowError(line=self.line, pointer=place, code=code, message=message))


def _parsed(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None
