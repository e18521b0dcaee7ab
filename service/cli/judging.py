"""`grape judge self-agreement`, `grape rubric probe`, `grape compare`: what judges and numbers are worth."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from service.cli.common import DataDir, Json, client, out, print_json, show_list

COLUMNS = ("criterion", "cells", "votes", "agreement", "interval", "flipping", "vote_variance", "alpha", "level")


def self_agreement(
    judge_id: str,
    job: Annotated[str | None, typer.Option(help="only cells of this job")] = None,
    grading: Annotated[str | None, typer.Option(help="only cells of this grading")] = None,
    criterion: Annotated[str | None, typer.Option(help="only cells of this criterion")] = None,
    revision: Annotated[int | None, typer.Option(help="of the judge; the current one by default")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show how far a judge agrees with itself where it was asked more than once."""
    with client(data_dir) as api:
        path = f"/v1/judges/{judge_id}/self-agreement"
        found = api.get(path, job=job, grading=grading, criterion=criterion, revision=revision)
    if as_json:
        print_json(found)
        return
    if found["note"]:
        out.print(found["note"], markup=False)
        return
    of_all = [("all", found["overall"])] if len(found["criteria"]) > 1 else []
    show_list([_line(name, them) for name, them in (*found["criteria"].items(), *of_all)], False, COLUMNS)
    for name, them in found["criteria"].items():
        for advice in them["advice"]:
            out.print(f"{name}: {advice['message']}", markup=False, highlight=False)


def probe(
    rubric_id: str,
    prompt: Annotated[str, typer.Option(help="the prompt that the answers are put beside")],
    version: Annotated[str, typer.Option(help="a version number or an alias")] = "latest",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Put answers that say nothing before a rubric's judges, and show which of them they pass."""
    with client(data_dir) as api:
        found = api.probe_version(rubric_id, prompt, version)
    if as_json:
        print_json(found)
        return
    rows = [
        {
            "criterion": key,
            "passed": ", ".join(map(repr, them["answers"])),
            "share": them["share"],
            "unjudged": them["unjudged"],
        }
        for key, them in found["criteria"].items()
    ]
    show_list(rows, False, ("criterion", "passed", "share", "unjudged"))
    out.print(found["message"] or "nothing that says nothing is passed", markup=False, highlight=False)


def compare(left: str, right: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Compare two jobs or gradings on the prompts that both have, from what is stored."""
    with client(data_dir) as api:
        found = api.post("/v1/comparisons", {"left": left, "right": right})
    if as_json:
        print_json(found)
        return
    plain = {"name": "plain reward", **found["plain_reward"]}
    rows = [plain, *({"name": key, **them} for key, them in found["criteria"].items())]
    shown = [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    show_list(shown, False, ("name", "left", "right", "difference", "low", "high", "prompts"))
    wins = found["win_rate"]
    if wins["rate"] is not None:
        out.print(
            f"left earns more on {wins['rate']:.1%} of {wins['prompts']} prompts (ties count as half)", markup=False
        )
    for warning in found["warnings"]:
        out.print(f"warning: {warning['message']}", markup=False, highlight=False)


def _line(name: str, them: dict[str, Any]) -> dict[str, Any]:
    rounded = {key: round(value, 3) if isinstance(value, float) else value for key, value in them.items()}
    interval = them["interval"]
    return {
        **rounded,
        "criterion": name,
        "interval": f"{interval['low']:.2f}–{interval['high']:.2f}" if interval else "",
    }
