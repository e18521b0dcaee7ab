"""`grape completion`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from service.cli.common import DataDir, Json, Limit, client, first, out, print_json, show, show_list

completions = typer.Typer(help="What was sampled or graded, and how.", no_args_is_help=True)


@completions.command("list")
def list_completions(
    job_id: str,
    step: int | None = None,
    purpose: str = "train",
    sort: str = "step",
    data_dir: DataDir = None,
    as_json: Json = False,
    limit: Limit = 10,
) -> None:
    """List a job's completions."""
    with client(data_dir) as api:
        rows = first(api.pages(f"/v1/jobs/{job_id}/completions", step=step, purpose=purpose, sort=sort), limit)
        show_list(rows, as_json, ("id", "step", "group", "index", "reward", "plain_reward", "advantage", "text"))


@completions.command("show")
def show_completion(completion_id: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show one completion: cells, critiques, weighting, and the parts of its advantage."""
    with client(data_dir) as api:
        row = api.get(f"/v1/completions/{completion_id}")
        if as_json:
            print_json(row)
            return
        show(
            row,
            False,
            ("id", "text", "reward", "plain_reward", "coverage", "unscaled_advantage", "scale_factor", "advantage"),
        )
        cells = [
            {
                **cell,
                "share": (row["weighting"].get(cell["criterion"]) or {}).get("share"),
                "part": row["parts"].get(cell["criterion"]),
            }
            for cell in row["cells"]
        ]
        show_list(cells, False, ("criterion", "status", "score", "confidence", "share", "part", "reasoning", "reason"))


@completions.command("replies")
def show_replies(
    completion_id: str,
    criterion: str,
    grading: Annotated[
        str | None, typer.Option(help="the grading that it belongs to, for keys that only grade")
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show what the judge of a criterion replied, word for word: every vote, every attempt."""
    with client(data_dir) as api:
        found = api.replies(completion_id, criterion, grading=grading)
        if as_json:
            print_json(found)
            return
        for vote in found["data"]:
            _show_vote(vote)
        if found["note"]:
            out.print(found["note"], markup=False)


def _show_vote(vote: dict[str, Any]) -> None:
    step = f", step {vote['step']}" if vote["step"] is not None else ""
    reading = vote["reading"] or {}
    read = {name: value for name, value in reading.items() if value is not None}
    told = ", ".join(f"{name} {value}" for name, value in read.items())
    out.print(f"vote {vote['vote']}{step}: {told}", markup=False, highlight=False, soft_wrap=True)
    for number, attempt in enumerate(vote["attempts"], 1):
        status = f" (HTTP {attempt['http_status']})" if attempt["http_status"] else ""
        out.print(f"  attempt {number}: {attempt['status']}{status}", markup=False, highlight=False)
        text = attempt["text"] if attempt["text"] is not None else attempt["reason"] or ""
        more = " […]" if attempt["cut"] else ""
        out.print(f"    {text}{more}", markup=False, highlight=False, soft_wrap=True)
