"""`grape job`, `grape checkpoint`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from service.cli.common import (
    JOB_FAILED,
    DataDir,
    Json,
    Limit,
    client,
    err,
    first,
    out,
    print_json,
    read_file,
    show,
    show_list,
)
from service.cli.scorecards import show_scorecard
from service.client import GrapeClient

jobs = typer.Typer(help="Jobs: submit, watch, cancel, pause, resume.", no_args_is_help=True)
checkpoints = typer.Typer(help="Checkpoints: list, download, promote.", no_args_is_help=True)

JOB = (
    "id",
    "name",
    "algorithm.type",
    "status",
    "status_reason",
    "progress.step",
    "progress.steps",
    "attempt",
    "limits",
    "spent",
    "error",
    "result",
)
MODEL = ("id", "name", "kind", "source", "sha256", "created_at")
CHECKPOINT = ("id", "job_id", "step", "kind", "bytes", "created_at")


def follow(api: GrapeClient, job_id: str, quiet: bool = False) -> dict[str, Any]:
    """Watch a job to its end, with a bar and its newest numbers; the job."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[steps]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=err, disable=quiet, transient=False) as progress:
        task = progress.add_task(job_id, total=None, steps="", note="")

        def update(job: dict[str, Any]) -> None:
            note = job["status_reason"] or ""
            if job["status"] == "running" and not note:
                note = latest_numbers(api, job_id, job["progress"]["step"])
            step, steps = job["progress"]["step"], job["progress"]["steps"]
            ended = job["finished_at"] is not None
            progress.update(
                task,
                description=f"{job['algorithm']['type']} {job['status']}",
                completed=step if steps else int(ended),
                total=steps or (1 if ended else None),  # a job without steps has a bar that only says that it moves
                steps=f"{step}/{steps}" if steps else "",
                note=note,
            )

        return api.wait(job_id, on_poll=update)


def latest_numbers(api: GrapeClient, job_id: str, step: int) -> str:
    """The newest reward, or loss, in a few words."""
    series = api.get(f"/v1/jobs/{job_id}/metrics", names="plain_reward,loss", after_step=max(step - 2, -1))["data"]
    newest = {s["name"]: s["points"][-1]["value"] for s in series if s["points"]}
    name = "plain_reward" if "plain_reward" in newest else "loss"
    return f"{name} {newest[name]:.3f}" if name in newest else ""


def _end(job: dict[str, Any], as_json: bool) -> None:
    _show(job, as_json)
    if job["status"] != "succeeded":
        raise typer.Exit(JOB_FAILED)


def _show(job: dict[str, Any], as_json: bool) -> None:
    """A job, and below it what an `evaluate` job has found."""
    result = job["result"]
    if as_json or not result or "scorecard" not in result:
        show(job, as_json, JOB)
        return
    brief = {name: value for name, value in result.items() if name not in ("scorecard", "comparison")}
    show({**job, "result": brief}, False, JOB)
    show_scorecard(result)


@jobs.command("submit")
def submit(
    file: Path,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="stay until it ends")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Submit a job from a JSON or YAML file."""
    with client(data_dir) as api:
        job = api.post("/v1/jobs", read_file(file))
        if watch:
            _end(follow(api, job["id"], quiet=as_json), as_json)
        else:
            show(job, as_json, JOB)


@jobs.command("watch")
def watch_job(job_id: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Watch a job to its end."""
    with client(data_dir) as api:
        _end(follow(api, job_id, quiet=as_json), as_json)


@jobs.command("list")
def list_jobs(status: str | None = None, data_dir: DataDir = None, as_json: Json = False, limit: Limit = 20) -> None:
    """List jobs, newest first."""
    with client(data_dir) as api:
        rows = first(api.pages("/v1/jobs", status=status), limit)
        show_list(rows, as_json, ("id", "name", "algorithm.type", "status", "progress.step", "created_at"))


@jobs.command("show")
def show_job(job_id: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show a job."""
    with client(data_dir) as api:
        _show(api.get(f"/v1/jobs/{job_id}"), as_json)


def _wish(name: str, help_text: str) -> None:
    def command(job_id: str, data_dir: DataDir = None, as_json: Json = False) -> None:
        with client(data_dir) as api:
            show(api.post(f"/v1/jobs/{job_id}/{name}"), as_json, JOB)

    command.__doc__ = help_text
    jobs.command(name)(command)


_wish("cancel", "Cancel a job, at once and for good.")
_wish("pause", "Pause a job at a checkpoint.")


@jobs.command("resume")
def resume(
    job_id: str,
    judge_calls: Annotated[int | None, typer.Option(help="the most calls of judges, from the job's start")] = None,
    judge_cost_usd: Annotated[float | None, typer.Option(help="the most that its judges may cost, in USD")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Let a paused job go on, with other limits if you give them."""
    given = {"judge_calls": judge_calls, "judge_cost_usd": judge_cost_usd}
    limits = {name: value for name, value in given.items() if value is not None}
    with client(data_dir) as api:
        show(api.post(f"/v1/jobs/{job_id}/resume", {"limits": limits} if limits else None), as_json, JOB)


@jobs.command("events")
def events(
    job_id: str,
    follow_: Annotated[bool, typer.Option("--follow", "-f", help="stay until the job ends")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show a job's events."""
    with client(data_dir) as api:
        rows = api.events(job_id) if follow_ else api.pages(f"/v1/jobs/{job_id}/events", limit=200)
        for row in rows:
            if as_json:
                print_json(row)
            else:
                data = json.dumps(row["data"], ensure_ascii=False) if row["data"] else ""
                line = f"{row['seq']:>4}  {row['created_at']}  {row['type']}  {data}".rstrip()
                out.print(line, highlight=False, markup=False, soft_wrap=True)


@jobs.command("metrics")
def metrics(
    job_id: str,
    names: Annotated[str | None, typer.Option(help="names, separated by commas")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show the last value of each of a job's metrics, or everything as JSON."""
    with client(data_dir) as api:
        series = api.get(f"/v1/jobs/{job_id}/metrics", names=names)["data"]
        if as_json:
            print_json(series)
            return
        rows = [
            {"name": s["name"], "step": s["points"][-1]["step"], "value": f"{s['points'][-1]['value']:.6g}"}
            for s in series
        ]
        show_list(rows, False, ("name", "step", "value"))


@jobs.command("logs")
def logs(job_id: str, data_dir: DataDir = None) -> None:
    """Print what the training process printed."""
    with client(data_dir) as api:
        for chunk in api.pages(f"/v1/jobs/{job_id}/logs", limit=200):
            out.print(chunk["text"], end="", highlight=False, markup=False, soft_wrap=True)


@checkpoints.command("list")
def list_checkpoints(job_id: str, data_dir: DataDir = None, as_json: Json = False, limit: Limit = 100) -> None:
    """List a job's checkpoints."""
    with client(data_dir) as api:
        show_list(first(api.pages(f"/v1/jobs/{job_id}/checkpoints"), limit), as_json, CHECKPOINT)


@checkpoints.command("show")
def show_checkpoint(checkpoint_id: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show a checkpoint's files and metrics."""
    with client(data_dir) as api:
        show(api.get(f"/v1/checkpoints/{checkpoint_id}"), as_json, (*CHECKPOINT, "metrics", "files"))


@checkpoints.command("download")
def download(
    checkpoint_id: str,
    folder: Annotated[Path, typer.Option("--output", "-o", help="where the files go")],
    merged: Annotated[bool, typer.Option("--merged", help="an adapter as a whole model, added to its base")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Download a checkpoint and verify every file; run it again to resume."""
    with client(data_dir) as api:
        found, columns = api.get(f"/v1/checkpoints/{checkpoint_id}"), CHECKPOINT
        get: Callable[..., dict[str, Any]] = api.download_checkpoint
        if merged and found["kind"] == "adapter":
            err.print("merging the adapter into its base …", highlight=False)
            found, get, columns = api.merge_checkpoint(checkpoint_id), api.download_model, MODEL
        total = sum(file["bytes"] for file in found["files"])
        with Progress(
            TextColumn("downloading"), BarColumn(), DownloadColumn(), console=err, disable=as_json
        ) as progress:
            task = progress.add_task("", total=total)
            found = get(found["id"], folder, lambda count: progress.advance(task, count))
        show({**found, "folder": str(folder), "verified": True}, as_json, (*columns, "folder", "verified"))


@checkpoints.command("promote")
def promote(
    checkpoint_id: str,
    name: str,
    merged: Annotated[bool, typer.Option("--merged", help="an adapter as a whole model, added to its base")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Register a checkpoint as a model."""
    with client(data_dir) as api:
        answer = api.post(f"/v1/checkpoints/{checkpoint_id}/promote", {"name": name, "merged": merged})
        show(answer, as_json, ("id", "name", "status", "sha256"))
