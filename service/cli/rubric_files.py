"""`grape rubric import` and `export`: rubrics as files of ours and of others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from service.cli.authoring import RUBRIC, rubrics, say_findings
from service.cli.common import USAGE, DataDir, Json, client, out, show, show_list, stop

__all__ = ["rubrics"]

_FORMATS = "healthbench, rar, openai_grader, json or yaml"


@rubrics.command("import")
def import_rubric(
    file: Annotated[Path, typer.Argument(help="a file, or - for standard input")],
    format_name: Annotated[
        str | None, typer.Option("--format", help=f"{_FORMATS}; by default the file's ending")
    ] = None,
    name: Annotated[str | None, typer.Option(help="the rubric's name")] = None,
    category: Annotated[str | None, typer.Option(help="the category of prompts that it is for")] = None,
    judge: Annotated[str | None, typer.Option(help="who judges criteria that come without a judge")] = None,
    polarity: Annotated[str | None, typer.Option(help="RaR's pitfalls: from_prefix or ask")] = None,
    weights: Annotated[str | None, typer.Option(help="RaR's weights: file or paper")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Create a rubric from a file; notes say what an author should know of how it was read."""
    if str(file) != "-" and not file.is_file():
        stop(f"there is no file {file}", USAGE)
    text = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    guessed = {".json": "json", ".yaml": "yaml", ".yml": "yaml"}.get(file.suffix)
    chosen = format_name or guessed
    if chosen is None:
        stop(f"say what the file is: --format {_FORMATS}", USAGE)
    if name is None and chosen not in ("json", "yaml") and str(file) != "-":
        name = file.stem
    given = {"name": name, "category": category, "judge": judge, "polarity": polarity, "weights": weights}
    options = {option: value for option, value in given.items() if value is not None}
    with client(data_dir) as api:
        answer = api.import_rubric(text, chosen, **options)
        show(answer, as_json, (*RUBRIC, "version.hash"))
        if not as_json:
            if answer["notes"]:
                out.print(f"\n{len(answer['notes'])} note{'s' * (len(answer['notes']) != 1)}:")
                show_list(answer["notes"], False, ("pointer", "message"))
            say_findings(answer["version"]["findings"])


@rubrics.command("export")
def export_rubric(
    rubric_id: str,
    format_name: Annotated[str, typer.Option("--format", help=_FORMATS)] = "yaml",
    version: Annotated[str, typer.Option(help="a version number or an alias")] = "latest",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="the file to write; else it is printed")] = None,
    data_dir: DataDir = None,
) -> None:
    """Write a version of a rubric as a file."""
    with client(data_dir) as api:
        text = api.export_rubric(rubric_id, format_name, version)
    if output is None:
        sys.stdout.write(text.decode())
    else:
        output.write_bytes(text)
