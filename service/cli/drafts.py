"""`grape rubric draft` and `grape rubric accept`: criteria that a model drafts."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.common import JOB_FAILED, USAGE, DataDir, Json, client, err, print_json, show, show_list, stop
from service.cli.gradings import read_lines
from service.client import GrapeClient

ENDS = ("succeeded", "failed", "cancelled")
POLL_S = 0.5


def draft(
    rubric_id: str,
    judge: Annotated[str, typer.Option(help="the judge whose model drafts")],
    grader: Annotated[
        str | None, typer.Option(help="the judge that the drafts are for; the drafter without it")
    ] = None,
    preferences: Annotated[str | None, typer.Option(help="a dataset of preferences to draft from")] = None,
    pairs: Annotated[Path | None, typer.Option(help="NDJSON, JSON or YAML: {prompt, chosen, rejected} each")] = None,
    examples: Annotated[Path | None, typer.Option(help="NDJSON, JSON or YAML: {prompt, text, good} each")] = None,
    most: Annotated[int | None, typer.Option(help="drafts for each eight pairs")] = None,
    instructions: Annotated[str | None, typer.Option(help="what the drafter is told beside the guidelines")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Have a model draft criteria from better and worse answers, and wait until they are checked."""
    given: dict[str, Any] = {
        "judge": judge,
        "grader": grader,
        "preferences": preferences,
        "pairs": read_lines(pairs) if pairs else None,
        "examples": read_lines(examples) if examples else None,
        "most": most,
        "instructions": instructions,
    }
    with client(data_dir) as api:
        made = api.post(f"/v1/rubrics/{rubric_id}/drafts", {k: v for k, v in given.items() if v is not None})
        _show(_wait(api, rubric_id, made["id"], quiet=as_json), as_json)


def drafts(rubric_id: str, draft_id: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show drafts with their checks."""
    with client(data_dir) as api:
        _show(api.get(f"/v1/rubrics/{rubric_id}/drafts/{draft_id}"), as_json)


def _wait(api: GrapeClient, rubric_id: str, draft_id: str, *, quiet: bool) -> dict[str, Any]:
    with contextlib.nullcontext() if quiet else err.status(f"{draft_id}: drafting and checking"):
        while True:
            found: dict[str, Any] = api.get(f"/v1/rubrics/{rubric_id}/drafts/{draft_id}")
            if found["status"] in ENDS:
                return found
            time.sleep(POLL_S)


def _show(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
    else:
        show(found, False, ("id", "status", "error", "source", "summary", "spent"))
        rows = [
            {
                "key": d["key"],
                "recommended": d["recommended"],
                "agreement": (d["checks"] or {}).get("agreement"),
                "text": (d["criterion"] or d["said"]).get("text", ""),
                "problems": "; ".join(d["problems"]),
            }
            for d in found["drafts"] or []
        ]
        show_list(rows, False, ("key", "recommended", "agreement", "text", "problems"))
    if found["status"] in ("failed", "cancelled"):
        raise typer.Exit(JOB_FAILED)


def accept(
    rubric_id: str,
    draft_id: str,
    keys: Annotated[list[str], typer.Argument(help="a draft's key, or key=another_key for it")],
    weight: Annotated[float, typer.Option(help="of each of them")] = 1.0,
    message: str = "",
    override: Annotated[str | None, typer.Option(help="why drafts are taken that failed a check")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Publish the next version of a rubric with these drafts as criteria."""
    given = []
    for item in keys:
        key, equals, other = item.partition("=")
        if equals and not other:
            stop(f"'{item}' gives no other key", USAGE)
        given.append({"key": key, "weight": weight, **({"as": other} if other else {})})
    with client(data_dir) as api:
        etag = api.get(f"/v1/rubrics/{rubric_id}")["etag"]
        body = {"criteria": given, "message": message, "override": override}
        made = api.post(f"/v1/rubrics/{rubric_id}/drafts/{draft_id}/accept", body, if_match=etag)
        show(made, as_json, ("version", "hash", "message"))
