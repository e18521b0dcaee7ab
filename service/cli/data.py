"""`grape model`, `grape dataset`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from service.cli.common import USAGE, DataDir, Json, Limit, client, first, out, show, show_list, stop

models = typer.Typer(help="Models, by the hashes of their files.", no_args_is_help=True)
datasets = typer.Typer(help="Datasets: prompts, demonstrations and preferences.", no_args_is_help=True)

MODEL = ("id", "name", "kind", "status", "sha256", "source", "normalisation", "error")
DATASET = ("id", "name", "kind", "rows", "batches", "hash")


@models.command("register")
def register(
    name: str,
    path: Annotated[Path | None, typer.Option(help="a folder below GRAPE_MODELS__ROOTS")] = None,
    hub: Annotated[str | None, typer.Option(help="a name on the hub, with @revision if wanted")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="a checkpoint's id")] = None,
    kind: Annotated[str, typer.Option(help="policy, or reward for a model that scores")] = "policy",
    mean: Annotated[float | None, typer.Option(help="a reward model's mean output")] = None,
    std: Annotated[float | None, typer.Option(help="the standard deviation of its outputs")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Register a model from a folder, the hub, or a checkpoint."""
    if (mean is None) != (std is None):
        stop("give --mean and --std together", USAGE)
    given = {"path": str(path.absolute()) if path else None, "hub": hub, "checkpoint": checkpoint}
    source = {kind: value for kind, value in given.items() if value}
    if len(source) != 1:
        stop("give exactly one of --path, --hub and --checkpoint", USAGE)
    with client(data_dir) as api:
        more: dict[str, Any] = {} if kind == "policy" else {"kind": kind}
        if mean is not None:
            more["normalisation"] = {"mean": mean, "std": std}
        model = api.register_model(name, source, **more)
        for warning in () if as_json else model["warnings"]:
            out.print(f"warning: {warning}")
        show(model, as_json, MODEL)


@models.command("normalise")
def normalise(
    model_id: str,
    mean: Annotated[float, typer.Option(help="the mean of the model's outputs on typical answers")],
    std: Annotated[float, typer.Option(help="their standard deviation")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Give a reward model the constants that turn its outputs into scores; new jobs use them."""
    with client(data_dir) as api:
        show(api.patch(f"/v1/models/{model_id}", {"normalisation": {"mean": mean, "std": std}}), as_json, MODEL)


@models.command("list")
def list_models(data_dir: DataDir = None, as_json: Json = False, limit: Limit = 100) -> None:
    """List models."""
    with client(data_dir) as api:
        show_list(first(api.pages("/v1/models"), limit), as_json, ("id", "name", "kind", "status", "sha256", "source"))


@models.command("show")
def show_model(model_id: str, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Show a model."""
    with client(data_dir) as api:
        show(api.get(f"/v1/models/{model_id}"), as_json, (*MODEL, "config", "files"))


@datasets.command("create")
def create_dataset(
    name: str,
    kind: Annotated[str, typer.Option(help="prompts, demonstrations or preferences")],
    file: Annotated[Path | None, typer.Option(help="NDJSON rows to publish at once")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a dataset, with its first rows if there is a file."""
    if file is not None and not file.is_file():
        stop(f"there is no file {file}", USAGE)
    with client(data_dir) as api:
        dataset = api.post("/v1/datasets", {"name": name, "kind": kind})
        if file is not None:
            batch = api.upload_rows(dataset["id"], file)
            if not as_json:
                out.print(f"{batch['rows']} rows published, {batch['duplicates']} duplicates left out")
        show(api.get(f"/v1/datasets/{dataset['id']}"), as_json, DATASET)


@datasets.command("add")
def add_rows(
    dataset_id: str,
    file: Path,
    skip: Annotated[bool, typer.Option(help="leave faulty lines out instead of refusing all")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Publish a batch of rows from an NDJSON file."""
    if not file.is_file():
        stop(f"there is no file {file}", USAGE)
    with client(data_dir) as api:
        batch = api.upload_rows(dataset_id, file, skip_faulty=skip)
        show(batch, as_json, ("batch", "rows", "duplicates", "error_count", "errors"))


@datasets.command("import")
def import_rows(
    dataset_id: str,
    file: Annotated[Path, typer.Argument(help="NDJSON, plain or .gz")],
    format_name: Annotated[
        str, typer.Option("--format", help="trl, hh, ultrafeedback, openai, cai, healthbench, rar, grape, or auto")
    ] = "auto",
    judge: Annotated[str | None, typer.Option(help="who judges criteria that come with the rows")] = None,
    polarity: Annotated[str | None, typer.Option(help="RaR's pitfalls: from_prefix or ask")] = None,
    weights: Annotated[str | None, typer.Option(help="RaR's weights: file or paper")] = None,
    skip: Annotated[bool, typer.Option(help="leave faulty lines out instead of refusing all")] = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Publish a batch of rows from a file in another project's format."""
    if not file.is_file():
        stop(f"there is no file {file}", USAGE)
    given = {"judge": judge, "polarity": polarity, "weights": weights}
    options = {name: value for name, value in given.items() if value is not None}
    with client(data_dir) as api:
        batch = api.import_rows(dataset_id, file, format_name, skip_faulty=skip, **options)
        show(batch, as_json, ("batch", "format", "rows", "duplicates", "pitfalls", "error_count", "errors"))


@datasets.command("export")
def export_rows(
    dataset_id: str,
    output: Annotated[Path, typer.Option("--output", "-o", help="the file to write; .gz packs it")],
    format_name: Annotated[
        str, typer.Option("--format", help="as_imported, grape (our own form), or another project's")
    ] = "as_imported",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Write a dataset's rows to a file, each as it was imported, or all in one format."""
    with client(data_dir) as api:
        count = api.export_rows(dataset_id, output, format_name)
        show({"rows": count, "file": str(output)}, as_json, ("rows", "file"))


@datasets.command("list")
def list_datasets(data_dir: DataDir = None, as_json: Json = False, limit: Limit = 100) -> None:
    """List datasets."""
    with client(data_dir) as api:
        show_list(first(api.pages("/v1/datasets"), limit), as_json, DATASET)


@datasets.command("rows")
def list_rows(dataset_id: str, data_dir: DataDir = None, as_json: Json = False, limit: Limit = 20) -> None:
    """Show rows of a dataset."""
    with client(data_dir) as api:
        show_list(first(api.pages(f"/v1/datasets/{dataset_id}/rows"), limit), as_json, ("seq", "content"))
