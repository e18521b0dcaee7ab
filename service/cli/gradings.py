"""`grape grading`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from service.cli.common import (
    JOB_FAILED,
    USAGE,
    DataDir,
    Json,
    Limit,
    client,
    err,
    first,
    out,
    read_file,
    show,
    show_graded,
    show_list,
    stop,
)
from service.client import GrapeClient

gradings = typer.Typer(
    help="Gradings: texts, rows or stored completions graded by a rubric version, without a job.", no_args_is_help=True
)

GRADING = ("id", "status", "status_reason", "rubric", "source", "reuse_cells", "progress", "limits", "spent", "error",
           "summary")  # fmt: skip


def read_lines(path: Path) -> list[Any]:
    """An NDJSON file, or a list in a JSON or YAML file."""
    if path.suffix in (".ndjson", ".jsonl"):
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        except OSError as error:
            stop(f"{path} cannot be read: {error.strerror}", USAGE)
        except ValueError as error:
            stop(f"{path} is not NDJSON, one JSON object per line: {error}", USAGE)
    found = read_file(path)
    if not isinstance(found, list):
        stop(f"{path} holds no list", USAGE)
    return found


def _rubrics(given: list[str], version: str) -> dict[str, Any]:
    """One reference, or a map of them by category."""
    if len(given) == 1 and "=" not in given[0]:
        return {"id": given[0], "version": _version(version)}
    found: dict[str, Any] = {}
    for item in given:
        category, equals, reference = item.rpartition("=")
        if not equals or not category or category in found or version != "latest":
            stop("name one rubric with --version, or each category once as category=id@version", USAGE)
        rubric_id, _, number = reference.partition("@")
        found[category] = {"id": rubric_id, "version": _version(number or "latest")}
    return found


def _version(name: str) -> int | str:
    return int(name) if name.isdigit() else name


@gradings.command("create")
def create(
    file: Annotated[Path | None, typer.Argument(help="the request as a JSON or YAML file")] = None,
    rubric: Annotated[
        list[str] | None,
        typer.Option(
            help="the rubric's id, or category=id@version for each category (* for all others); repeat it then"
        ),
    ] = None,
    version: Annotated[str, typer.Option(help="a single rubric's version: a number, or an alias")] = "latest",
    texts: Annotated[Path | None, typer.Option(help="NDJSON, JSON or YAML: {prompt, text, group?} each")] = None,
    dataset: Annotated[str | None, typer.Option(help="a dataset of demonstrations or preferences")] = None,
    completion: Annotated[list[str] | None, typer.Option(help="a stored completion; repeat it")] = None,
    job: Annotated[str | None, typer.Option(help="a job, for its completions")] = None,
    grading: Annotated[str | None, typer.Option(help="a grading, for its completions")] = None,
    weighting: Annotated[str | None, typer.Option(help="confidence, uniform, inverse_variance, healthbench")] = None,
    reuse_cells: Annotated[
        bool, typer.Option("--reuse-cells", help="aggregate stored cells anew, without a call")
    ] = False,
    votes: Annotated[int | None, typer.Option(help="ask judges at least so often for each cell")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="ask judges even for cells that are known")] = False,
    judge_calls: Annotated[int | None, typer.Option(help="the most calls of judges")] = None,
    judge_cost_usd: Annotated[float | None, typer.Option(help="the most that its judges may cost, in USD")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="stay until it ends")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Grade texts, a dataset's completions, or stored ones."""
    if file is not None:
        body = read_file(file)
    else:
        limits = {"judge_calls": judge_calls, "judge_cost_usd": judge_cost_usd}
        given: dict[str, Any] = {
            "rubric": _rubrics(rubric, version) if rubric else None,
            "texts": read_lines(texts) if texts else None,
            "dataset": dataset,
            "completions": completion,
            "job": job,
            "grading": grading,
            "aggregation": {"weighting": weighting} if weighting else None,
            "reuse_cells": reuse_cells or None,
            "votes": votes,
            "fresh": fresh or None,
            "limits": {name: value for name, value in limits.items() if value is not None},
        }
        body = {name: value for name, value in given.items() if value}
        if not body:
            stop("give a file, or --rubric with one of --texts, --dataset, --completion, --job and --grading", USAGE)
    with client(data_dir) as api:
        made = api.post("/v1/gradings", body)
        if watch:
            _end(follow(api, made["id"], quiet=as_json), as_json)
        else:
            show(made, as_json, GRADING)


def follow(api: GrapeClient, grading_id: str, quiet: bool = False) -> dict[str, Any]:
    """Watch a grading to its end, with a bar; the grading."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=err, disable=quiet) as progress:
        task = progress.add_task(grading_id, total=None, note="")

        def update(grading: dict[str, Any]) -> None:
            cells = grading["progress"]
            note = grading["status_reason"] or (f"{cells['failed']} without a score" if cells["failed"] else "")
            description = f"grading {grading['status']}"
            progress.update(task, description=description, completed=cells["done"], total=cells["cells"], note=note)

        return api.wait_grading(grading_id, on_poll=update)


def _end(grading: dict[str, Any], as_json: bool) -> None:
    show(grading, as_json, GRADING)
    if grading["status"] != "succeeded":
        raise typer.Exit(JOB_FAILED)


@gradings.command("list")
def list_gradings(
    status: str | None = None, data_dir: DataDir = None, as_json: Json = False, limit: Limit = 20
) -> None:
    """List gradings, newest first."""
    with client(data_dir) as api:
        rows = first(api.pages("/v1/gradings", status=status), limit)
        show_list(rows, as_json, ("id", "status", "rubric.id", "source", "progress", "created_at"))


@gradings.command("get")
def get(grading_id: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show a grading, with its summary once it has one."""
    with client(data_dir) as api:
        show(api.get(f"/v1/gradings/{grading_id}"), as_json, GRADING)


@gradings.command("watch")
def watch_grading(grading_id: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Watch a grading to its end."""
    with client(data_dir) as api:
        _end(follow(api, grading_id, quiet=as_json), as_json)


@gradings.command("results")
def results(
    grading_id: str,
    criterion: Annotated[str | None, typer.Option(help="only with a cell of this criterion")] = None,
    status: Annotated[str | None, typer.Option(help="only with a cell of this status, e.g. timeout")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
    limit: Limit = 100,
) -> None:
    """Show graded completions in input order, with their scores."""
    with client(data_dir) as api:
        pages = api.pages(
            f"/v1/gradings/{grading_id}/completions", criterion=criterion, status=status, limit=min(limit, 200)
        )
        rows = first(pages, limit)
        if rows or as_json:
            show_graded(rows, as_json)
        else:
            out.print("nothing yet")


@gradings.command("cancel")
def cancel(grading_id: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Cancel a grading, at once and for good; what is finished stays."""
    with client(data_dir) as api:
        show(api.post(f"/v1/gradings/{grading_id}/cancel"), as_json, GRADING)
