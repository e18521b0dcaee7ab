"""What all commands share: the client, files of people, output, errors as one sentence with an exit code."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import yaml
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from service.client import GrapeClient

OK, REFUSED, USAGE, UNREACHABLE, JOB_FAILED = 0, 1, 2, 3, 4

out = Console()
err = Console(stderr=True)

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="the data folder of the `grape up` to talk to", envvar="GRAPE_DATA_DIR"),
]
Json = Annotated[bool, typer.Option("--json", help="print the API's JSON")]
Limit = Annotated[int, typer.Option(help="how many rows at most")]


def client(data_dir: Path | None) -> GrapeClient:
    """The service of --data-dir, the environment, or the default folder."""
    return GrapeClient.from_credentials(data_dir)


def stop(message: str, code: int = REFUSED) -> NoReturn:
    """One sentence, and an exit code that scripts can use."""
    err.print(f"grape: {message}", style="red", highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(code)


def read_file(path: Path) -> Any:
    """A JSON or YAML file; `-` is standard input."""
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except OSError as error:
        stop(f"{path} cannot be read: {error.strerror}", USAGE)
    except (ValueError, yaml.YAMLError) as error:
        stop(f"{path} is not valid JSON or YAML: {error}", USAGE)


def show(value: Any, as_json: bool, columns: Sequence[str]) -> None:
    """One resource: JSON, or the named fields."""
    if as_json:
        print_json(value)
        return
    table = Table(box=None, show_header=False)
    for column in columns:
        table.add_row(column, escape(_text(_pick(value, column))))
    out.print(table)


def show_list(values: list[dict[str, Any]], as_json: bool, columns: Sequence[str]) -> None:
    """Several: a JSON list, or a table of the named fields."""
    if as_json:
        print_json(values)
        return
    table = Table(box=None)
    for column in columns:
        is_id = column == "id" or column.endswith("_id")
        table.add_column(column.split(".")[-1], overflow="fold", no_wrap=is_id)  # an id is there to be copied
    for value in values:
        table.add_row(*(escape(_text(_pick(value, column))) for column in columns))  # people write brackets too
    out.print(table if values else "nothing yet")


def show_graded(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Graded completions: JSON, or a line for each with its scores; a cell without one shows its status."""
    if as_json:
        print_json(rows)
        return
    keys = list(dict.fromkeys(cell["criterion"] for row in rows for cell in row["cells"]))
    numbers = ("index", "reward", "plain_reward", "advantage")
    table = Table(*numbers, *keys, "text", box=None)
    for row in rows:
        cells = {cell["criterion"]: cell for cell in row["cells"]}
        found = [cells.get(key, {"score": None, "status": "-"}) for key in keys]
        scores = [cell["status"] if cell["score"] is None else cell["score"] for cell in found]
        table.add_row(*(_text(row[name]) for name in numbers), *map(_text, scores), row["text"])
    out.print(table)


def print_json(value: Any) -> None:
    """To standard output, for programs."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _pick(value: Any, path: str) -> Any:
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def first(rows: Any, limit: int) -> list[dict[str, Any]]:
    """At most `limit` rows."""
    taken: list[dict[str, Any]] = []
    for row in rows:
        if len(taken) == limit:
            break
        taken.append(row)
    return taken


def replace_process(*arguments: str) -> NoReturn:
    """Become another Python program, with this terminal."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *arguments])  # noqa: S606 (our own modules)
