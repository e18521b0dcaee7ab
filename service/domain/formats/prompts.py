"""Prompts that bring their own criteria: HealthBench and RaR."""

from __future__ import annotations

from typing import Any

from service.domain.formats.items import read_points, read_weighted, write_points, write_weighted
from service.domain.formats.reading import Options, Reading, Shape
from service.domain.formats.source import Fault, Source, Turn, fail

_NO_ANSWER = Fault("", "no_answer", "the row holds a prompt and its criteria; import it into a dataset of kind prompts")


def _healthbench(source: Source, options: Options) -> Reading:
    own: dict[str, Any] = {"criteria": read_points(source, "rubrics", options)}
    if source.row.get("example_tags"):
        own["tags"] = source.items("example_tags")
    return Reading(source.turns("prompt"), own=own, no_answer=_NO_ANSWER, no_pair=_NO_ANSWER)


def _write_healthbench(reading: Reading) -> dict[str, Any]:
    items = [write_points(criterion) for criterion in reading.own.get("criteria", ())]
    if not items:
        fail("", "no_criteria", "the row brings no criteria of its own, and HealthBench consists of them")
    return {"prompt": reading.messages, "rubrics": items, "example_tags": reading.own.get("tags", [])}


def _rar(source: Source, options: Options) -> Reading:
    prompt: list[Turn] = [{"role": "user", "content": source.text("question")}]
    own: dict[str, Any] = {"criteria": read_weighted(source, "rubric", options)}
    if source.has("reference_answer"):
        own["reference"] = source.value("reference_answer")
    return Reading(prompt, own=own, no_answer=_NO_ANSWER, no_pair=_NO_ANSWER)


def _write_rar(reading: Reading) -> dict[str, Any]:
    items = [write_weighted(criterion) for criterion in reading.own.get("criteria", ())]
    if not items:
        fail("", "no_criteria", "the row brings no criteria of its own, and RaR consists of them")
    if [turn["role"] for turn in reading.messages] != ["user"]:
        fail("", "no_question", "RaR has one question a row, and this prompt is a conversation; export healthbench")
    reference = {"reference_answer": reading.own["reference"]} if "reference" in reading.own else {}
    return {"question": reading.messages[0]["content"], **reference, "rubric": items, "rubric_count": len(items)}


SHAPES = (
    Shape("healthbench", "example", lambda row: "rubrics" in row and "prompt" in row, _healthbench, _write_healthbench,
          {"messages": "prompt", "criteria": "rubrics", "tags": "example_tags"}, exports=("prompts",),
          owns=("criteria", "tags")),
    Shape("rar", "question", lambda row: "rubric" in row and "question" in row, _rar, _write_rar,
          {"messages": "question", "criteria": "rubric", "reference": "reference_answer"}, exports=("prompts",),
          owns=("criteria", "reference")),
)  # fmt: skip
