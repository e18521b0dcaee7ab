"""`grape key`, `grape rubric`, `grape judge`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.common import (
    REFUSED,
    USAGE,
    DataDir,
    Json,
    Limit,
    client,
    first,
    out,
    print_json,
    read_file,
    show,
    show_graded,
    show_list,
    stop,
)

keys = typer.Typer(help="API keys.", no_args_is_help=True)
rubrics = typer.Typer(help="Rubrics and their versions.", no_args_is_help=True)
judges = typer.Typer(help="Judges: LLMs that score.", no_args_is_help=True)

RUBRIC = ("id", "name", "category", "latest_version", "aliases", "updated_at")
VERSION = ("rubric", "version", "hash", "message", "author", "created_at")
JUDGE = ("id", "name", "revision", "fingerprint", "endpoint.base_url", "endpoint.model", "model", "prompt.version", "votes", "confidence",
         "batch", "structured_output", "concurrency", "price", "max_cost_usd", "spent", "has_api_key")  # fmt: skip
KEY = ("id", "name", "prefix", "scopes", "expires_at", "revoked_at", "last_used_at")


@keys.command("create")
def create_key(
    name: str,
    scope: Annotated[list[str], typer.Option(help="e.g. jobs:read; repeat it")],
    project: str | None = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a key; it is shown once."""
    with client(data_dir) as api:
        body = {"name": name, "scopes": scope, **({"project": project} if project else {})}
        show(api.post("/v1/api-keys", body), as_json, ("id", "name", "scopes", "key"))


@keys.command("list")
def list_keys(data_dir: DataDir = None, as_json: Json = False, limit: Limit = 100) -> None:
    """List keys."""
    with client(data_dir) as api:
        show_list(first(api.pages("/v1/api-keys"), limit), as_json, KEY)


@keys.command("revoke")
def revoke_key(key_id: str, data_dir: DataDir = None) -> None:
    """Revoke a key."""
    with client(data_dir) as api:
        api.delete(f"/v1/api-keys/{key_id}")


def _content(body: dict[str, Any]) -> dict[str, Any]:
    """A file may hold the whole rubric, or its content alone."""
    content: dict[str, Any] = body.get("content", body)
    return content


FINDING = ("severity", "code", "pointer", "message")


def say_findings(findings: list[dict[str, Any]]) -> None:
    """What the linter says, under the answer; nothing if it has nothing to say."""
    if findings:
        out.print(f"\n{len(findings)} finding{'s' * (len(findings) != 1)}:")
        show_list(findings, False, FINDING)


@rubrics.command("create")
def create_rubric(
    file: Path,
    name: Annotated[str | None, typer.Option(help="the rubric's name, if the file holds only its content")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a rubric, version 1, from a JSON or YAML file; what the linter says is shown and stops nothing."""
    body = read_file(file)
    if isinstance(body, dict) and "content" not in body:
        body = {"name": name or file.stem, "content": body}
    elif name and isinstance(body, dict):
        body = {**body, "name": name}
    with client(data_dir) as api:
        answer = api.post("/v1/rubrics", body)
        show(answer, as_json, (*RUBRIC, "version.hash"))
        if not as_json:
            say_findings(answer["version"]["findings"])


@rubrics.command("publish")
def publish(
    rubric_id: str,
    file: Path,
    message: Annotated[str, typer.Option("--message", "-m", help="what has changed")] = "",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Publish the next version of a rubric; what the linter says is shown and stops nothing."""
    with client(data_dir) as api:
        answer = api.publish_version(rubric_id, _content(read_file(file)), message)
        show(answer, as_json, VERSION)
        if not as_json:
            say_findings(answer["findings"])


@rubrics.command("validate")
def validate(
    file: Path,
    rubric: Annotated[str | None, typer.Option(help="the rubric whose next version it would be")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="exit with 1 if the linter warns")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Check a rubric without storing it: faults, what the linter says, and what counts for how much."""
    with client(data_dir) as api:
        answer = api.validate_rubric(_content(read_file(file)), rubric)
    show(answer, as_json, ("valid", "hash"))
    if not as_json:
        rows = [{"criterion": key, "share": f"{share:.1%}"} for key, share in answer["shares"]["criteria"].items()]
        show_list(rows, False, ("criterion", "share"))
        say_findings(answer["findings"])
    if strict and any(finding["severity"] == "warning" for finding in answer["findings"]):
        raise typer.Exit(REFUSED)


@rubrics.command("diff")
def diff_versions(rubric_id: str, before: str, after: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show what has changed between two versions (numbers or aliases)."""
    with client(data_dir) as api:
        found = api.diff_rubric(rubric_id, before, after)
    if as_json:
        print_json(found)
    else:
        out.print(found["text"], highlight=False, markup=False, soft_wrap=True)


@rubrics.command("list")
def list_rubrics(data_dir: DataDir = None, as_json: Json = False, limit: Limit = 100) -> None:
    """List rubrics."""
    with client(data_dir) as api:
        show_list(first(api.pages("/v1/rubrics"), limit), as_json, RUBRIC)


@rubrics.command("show")
def show_rubric(
    rubric_id: str,
    version: Annotated[str | None, typer.Option(help="a version number or an alias")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Show a rubric, or one of its versions."""
    with client(data_dir) as api:
        if version is None:
            show(api.get(f"/v1/rubrics/{rubric_id}"), as_json, RUBRIC)
        else:
            show(api.get(f"/v1/rubrics/{rubric_id}/versions/{version}"), as_json, (*VERSION, "content"))


@rubrics.command("versions")
def list_versions(rubric_id: str, data_dir: DataDir = None, as_json: Json = False, limit: Limit = 100) -> None:
    """List a rubric's versions."""
    with client(data_dir) as api:
        show_list(first(api.pages(f"/v1/rubrics/{rubric_id}/versions"), limit), as_json, VERSION)


@rubrics.command("alias")
def set_alias(rubric_id: str, alias: str, version: int, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Point an alias at a version."""
    with client(data_dir) as api:
        etag = api.get(f"/v1/rubrics/{rubric_id}")["etag"]
        answer = api.put(f"/v1/rubrics/{rubric_id}/aliases/{alias}", {"version": version}, if_match=etag)
        show(answer, as_json, RUBRIC)


@rubrics.command("try")
def try_rubric(
    rubric: Annotated[
        str, typer.Argument(help="a rubric's id; or a JSON or YAML file with a draft, which need not be published")
    ],
    text: Annotated[list[str] | None, typer.Argument(help="the texts to grade, at most 16")] = None,
    prompt: Annotated[str | None, typer.Option(help="the prompt that they answer")] = None,
    file: Annotated[
        Path | None, typer.Option(help="a JSON or YAML file with prompt and completions, as the API takes them")
    ] = None,
    version: Annotated[str | None, typer.Option(help="a version number or an alias; the latest by default")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Grade a few texts at once, as one group, by a version or a draft; nothing is stored."""
    body = read_file(file) if file is not None else {"prompt": prompt, "completions": text}
    if not isinstance(body, dict) or not body.get("prompt") or not body.get("completions"):
        stop("give --prompt with texts, or --file with 'prompt' and 'completions'", USAGE)
    draft = None if rubric.startswith("rub_") else read_file(Path(rubric))
    if draft is not None and version is not None:
        stop("--version names a version of a rubric; a draft has none", USAGE)
    if draft is not None and not isinstance(draft, dict):
        stop(f"{rubric} holds no rubric", USAGE)
    with client(data_dir) as api:
        if draft is None:
            rows = api.try_version(rubric, body["prompt"], body["completions"], version or "latest")
        else:
            rows = api.try_draft(_content(draft), body["prompt"], body["completions"])
        show_graded(rows, as_json)


@judges.command("create")
def create_judge(
    name: str,
    url: Annotated[str | None, typer.Option(help="the endpoint's base address, e.g. https://host/v1")] = None,
    model: Annotated[
        str | None, typer.Option(help="the model to ask for, or a registered one (mdl_…) without --url")
    ] = None,
    api_key_env: Annotated[str | None, typer.Option(help="the environment variable that holds the key")] = None,
    concurrency: int = 16,
    votes: int = 1,
    requests_per_minute: Annotated[float | None, typer.Option(help="the most requests a minute")] = None,
    tokens_per_minute: Annotated[float | None, typer.Option(help="the most tokens a minute")] = None,
    confidence: Annotated[str | None, typer.Option(help="verbal, logprob, votes or none")] = None,
    batch: Annotated[int | None, typer.Option(help="how many criteria share a question")] = None,
    structured_output: Annotated[str | None, typer.Option(help="auto, on or off")] = None,
    system: Annotated[str | None, typer.Option(help="what the judge is told beside the rubric")] = None,
    prompt_version: Annotated[int | None, typer.Option(help="the version of the question's texts")] = None,
    examples: Annotated[Path | None, typer.Option(help="a JSON or YAML file with a list of graded examples")] = None,
    price_in: Annotated[float | None, typer.Option(help="what a million tokens of questions cost, in USD")] = None,
    price_out: Annotated[float | None, typer.Option(help="what a million tokens of answers cost, in USD")] = None,
    max_cost_usd: Annotated[float | None, typer.Option(help="the most that it may cost in all, in USD")] = None,
    file: Annotated[Path | None, typer.Option(help="a JSON or YAML file with further fields, as in the API")] = None,
    cache: Annotated[bool, typer.Option(help="do not ask again for cells that are known")] = True,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a judge. Its key is read from the environment, so that it stands in no shell history."""
    if model is None:
        stop("give --url and --model, or a registered model alone: --model mdl_…", USAGE)
    place: dict[str, Any] = {"model": model}
    if url is not None:
        key = {"api_key": os.environ.get(api_key_env, "")} if api_key_env else {}
        place = {"endpoint": {"base_url": url, "model": model, **key}}
    prompt = {"system": system, "version": prompt_version}
    rate = {"requests_per_minute": requests_per_minute, "tokens_per_minute": tokens_per_minute}
    if (price_in is None) != (price_out is None):
        stop("give both --price-in and --price-out", USAGE)
    fields = {
        "price": None if price_in is None else {"input_per_mtok": price_in, "output_per_mtok": price_out},
        "max_cost_usd": max_cost_usd,
        "confidence": confidence,
        "batch": batch,
        "structured_output": structured_output,
        "prompt": {key: value for key, value in prompt.items() if value is not None} or None,
        "examples": read_file(examples) if examples else None,
        "rate_limit": {key: value for key, value in rate.items() if value} or None,
    }
    body = {"name": name, **place, "concurrency": concurrency, "votes": votes, "cache": cache}
    body |= {**(read_file(file) if file else {}), **{key: value for key, value in fields.items() if value is not None}}
    with client(data_dir) as api:
        show(api.post("/v1/judges", body), as_json, JUDGE)


@judges.command("list")
def list_judges(data_dir: DataDir = None, as_json: Json = False, limit: Limit = 100) -> None:
    """List judges."""
    with client(data_dir) as api:
        show_list(first(api.pages("/v1/judges"), limit), as_json, JUDGE)


@judges.command("show")
def show_judge(judge_id: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show a judge as it is now."""
    with client(data_dir) as api:
        show(api.get(f"/v1/judges/{judge_id}"), as_json, JUDGE)


@judges.command("update")
def update_judge(judge_id: str, file: Path, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Change a judge by a JSON or YAML file; what decides verdicts makes a new revision."""
    with client(data_dir) as api:
        show(api.patch(f"/v1/judges/{judge_id}", read_file(file)), as_json, JUDGE)


@judges.command("revisions")
def list_revisions(judge_id: str, data_dir: DataDir = None, as_json: Json = False, limit: Limit = 100) -> None:
    """List a judge's revisions."""
    with client(data_dir) as api:
        rows = first(api.pages(f"/v1/judges/{judge_id}/revisions"), limit)
        show_list(rows, as_json, ("judge", "revision", "fingerprint", "config", "created_at"))
