"""`grape revision` and `grape pair-label`."""

from __future__ import annotations

import time
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
    read_file,
    show,
    show_list,
    stop,
)
from service.client import TERMINAL, GrapeClient

revisions = typer.Typer(
    help="Revisions: stored completions made better with their critiques; what grades better becomes training data.",
    no_args_is_help=True,
)
labels = typer.Typer(
    help="Labelled pairs: a judge says which of two completions is better, in both orders.", no_args_is_help=True
)

SHARED = ("id", "status", "status_reason", "source", "judges", "progress", "limits", "spent", "error", "summary")
REVISION = (*SHARED, "uses", "reviser", "margin", "votes", "per_group", "preferences", "demonstrations")
LABELLING = (*SHARED, "judge", "preferences")
RESULT = ("kind", "accepted", "reason", "original.plain_reward", "better.plain_reward", "difference", "threshold",
          "original.completion")  # fmt: skip
EVERY_S = 0.5


def follow(api: GrapeClient, path: str, quiet: bool = False) -> dict[str, Any]:
    """Watch a request to its end, with a bar of its pairs; the request."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=err, disable=quiet) as progress:
        task = progress.add_task(path, total=None, note="")
        while True:
            found: dict[str, Any] = api.get(path)
            pairs = found["progress"]
            note = found["status_reason"] or (f"{pairs['rejected']} not accepted" if pairs["rejected"] else "")
            progress.update(
                task,
                description=f"pairs {found['status']}",
                completed=pairs["decided"],
                total=pairs["pairs"],
                note=note,
            )
            if found["status"] in TERMINAL:
                return found
            time.sleep(EVERY_S)


def _begun(
    api: GrapeClient, path: str, body: dict[str, Any], fields: tuple[str, ...], watch: bool, as_json: bool
) -> None:
    made = api.post(path, body)
    if watch:
        _end(follow(api, f"{path}/{made['id']}", quiet=as_json), fields, as_json)
    else:
        show(made, as_json, fields)


def _end(found: dict[str, Any], fields: tuple[str, ...], as_json: bool) -> None:
    show(found, as_json, fields)
    if found["status"] != "succeeded":
        raise typer.Exit(JOB_FAILED)


Completion = Annotated[list[str] | None, typer.Option("--completion", help="a stored completion; repeat it")]
Job = Annotated[str | None, typer.Option(help="a job, for its completions")]
Grading = Annotated[str | None, typer.Option(help="a grading, for its completions")]
Calls = Annotated[int | None, typer.Option(help="the most calls of judges and revisers")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="stay until it ends")]
Preferences = Annotated[str | None, typer.Option(help="the dataset that pairs go to, else a new one")]


@revisions.command("create")
def create(
    file: Annotated[Path | None, typer.Argument(help="the request as a JSON or YAML file")] = None,
    completion: Completion = None,
    job: Job = None,
    grading: Grading = None,
    reviser: Annotated[str | None, typer.Option(help="the judge whose endpoint or model writes the revisions")] = None,
    use: Annotated[list[str] | None, typer.Option(help="pairs, demonstrations, pairs_from_group; repeat it")] = None,
    margin: Annotated[float | None, typer.Option(help="by how much plain reward has to rise")] = None,
    votes: Annotated[int | None, typer.Option(help="how often each judged criterion is asked, at least")] = None,
    per_group: Annotated[int | None, typer.Option(help="how many completions of a group, the worst first")] = None,
    preferences: Preferences = None,
    demonstrations: Annotated[str | None, typer.Option(help="the dataset of demonstrations, else a new one")] = None,
    judge_calls: Calls = None,
    watch: Watch = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Have stored completions revised."""
    if file is not None:
        body = read_file(file)
    else:
        given = {
            "completions": completion,
            "job": job,
            "grading": grading,
            "reviser": reviser,
            "uses": use,
            "margin": margin,
            "votes": votes,
            "per_group": per_group,
            "preferences": preferences,
            "demonstrations": demonstrations,
            "limits": {"judge_calls": judge_calls} if judge_calls is not None else None,
        }
        body = {name: value for name, value in given.items() if value is not None and value != []}
        if not body:
            stop("give a file, or --reviser with one of --completion, --job and --grading", USAGE)
    with client(data_dir) as api:
        _begun(api, "/v1/revisions", body, REVISION, watch, as_json)


@revisions.command("list")
def list_revisions(
    status: str | None = None, data_dir: DataDir = None, as_json: Json = False, limit: Limit = 20
) -> None:
    """List requests for revisions, newest first."""
    with client(data_dir) as api:
        rows = first(api.pages("/v1/revisions", status=status), limit)
        show_list(rows, as_json, ("id", "status", "source", "uses", "progress", "created_at"))


@revisions.command("get")
def get(revision_id: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show a request for revisions, with its summary once it has one."""
    with client(data_dir) as api:
        show(api.get(f"/v1/revisions/{revision_id}"), as_json, REVISION)


@revisions.command("watch")
def watch_revision(revision_id: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Watch a request for revisions to its end."""
    with client(data_dir) as api:
        _end(follow(api, f"/v1/revisions/{revision_id}", quiet=as_json), REVISION, as_json)


@revisions.command("results")
def results(
    request_id: Annotated[str, typer.Argument(help="a request for revisions, or a job with algorithm.revision")],
    accepted: Annotated[bool | None, typer.Option("--accepted/--rejected", help="only these")] = None,
    reason: Annotated[str | None, typer.Option(help="only those rejected for this reason")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
    limit: Limit = 100,
) -> None:
    """Show what became of each, with the reason of those that were not accepted."""
    of_job = request_id.startswith("job_")
    path = f"/v1/jobs/{request_id}/revisions" if of_job else f"/v1/revisions/{request_id}/results"
    _results(path, accepted, reason, data_dir, as_json, limit)


def _results(
    path: str, accepted: bool | None, reason: str | None, data_dir: Path | None, as_json: bool, limit: int
) -> None:
    wanted = None if accepted is None else str(accepted).lower()
    with client(data_dir) as api:
        rows = first(api.pages(path, accepted=wanted, reason=reason, limit=min(limit, 200)), limit)
        show_list(rows, as_json, RESULT)


@revisions.command("cancel")
def cancel(revision_id: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Cancel at once and for good; what is decided stays readable, and no dataset gets rows."""
    with client(data_dir) as api:
        show(api.post(f"/v1/revisions/{revision_id}/cancel"), as_json, REVISION)


@labels.command("create")
def create_labels(
    judge: Annotated[str, typer.Option(help="who says which is better")],
    completion: Completion = None,
    job: Job = None,
    grading: Grading = None,
    guidelines: Annotated[str | None, typer.Option(help="what better means, beside the rubric's guidelines")] = None,
    preferences: Preferences = None,
    judge_calls: Calls = None,
    watch: Watch = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Have pairs labelled: named completions in twos, or best and worst of each group."""
    given = {
        "judge": judge,
        "completions": completion,
        "job": job,
        "grading": grading,
        "guidelines": guidelines,
        "preferences": preferences,
        "limits": {"judge_calls": judge_calls} if judge_calls is not None else None,
    }
    body = {name: value for name, value in given.items() if value is not None and value != []}
    with client(data_dir) as api:
        _begun(api, "/v1/pair-labels", body, LABELLING, watch, as_json)


@labels.command("list")
def list_labels(status: str | None = None, data_dir: DataDir = None, as_json: Json = False, limit: Limit = 20) -> None:
    """List requests for labelled pairs, newest first."""
    with client(data_dir) as api:
        rows = first(api.pages("/v1/pair-labels", status=status), limit)
        show_list(rows, as_json, ("id", "status", "source", "judge", "progress", "created_at"))


@labels.command("get")
def get_labels(labelling_id: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show a request for labelled pairs."""
    with client(data_dir) as api:
        show(api.get(f"/v1/pair-labels/{labelling_id}"), as_json, LABELLING)


@labels.command("results")
def label_results(
    labelling_id: str,
    accepted: Annotated[bool | None, typer.Option("--accepted/--rejected", help="only these")] = None,
    reason: Annotated[str | None, typer.Option(help="e.g. tie")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
    limit: Limit = 100,
) -> None:
    """Show every pair: the preferred ones, and ties."""
    _results(f"/v1/pair-labels/{labelling_id}/results", accepted, reason, data_dir, as_json, limit)


@labels.command("cancel")
def cancel_labels(labelling_id: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Cancel at once and for good."""
    with client(data_dir) as api:
        show(api.post(f"/v1/pair-labels/{labelling_id}/cancel"), as_json, LABELLING)
