"""What all commands share: the client, files of people, output, errors as one sentence with an exit code."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import yaml
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table

from service.client import GrapeClient

SHORTEST = 8
"""Characters to which a column may be cut."""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")

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
        table.add_row(column, _text(_pick(value, column)))
    out.print(table)


def show_list(values: list[dict[str, Any]], as_json: bool, columns: Sequence[str]) -> None:
    """Several: a JSON list, or a table of the named fields."""
    if as_json:
        print_json(values)
        return
    if not values:
        out.print("nothing yet")
        return
    for line in table_lines(values, columns, out.width if out.is_terminal else None):
        out.print(line, highlight=False, markup=False, soft_wrap=True)


def table_lines(values: Sequence[dict[str, Any]], columns: Sequence[str], width: int | None) -> list[str]:
    """A header and one line per value. Beyond `width` the longest texts are cut short; ids never, they are there to be copied."""
    rows = [[column.split(".")[-1] for column in columns]]
    rows += [[_short(_pick(value, column)) for column in columns] for value in values]
    widths = [max(cell_len(row[k]) for row in rows) for k in range(len(columns))]
    may_shrink = [k for k, column in enumerate(columns) if column != "id" and not column.endswith("_id")]
    while width is not None and sum(widths) + 2 * (len(widths) - 1) > width:
        longest = max(may_shrink, key=lambda k: widths[k], default=None)
        if longest is None or widths[longest] <= SHORTEST:
            break
        widths[longest] -= 1
    return ["  ".join(_cell(text, size) for text, size in zip(row, widths, strict=True)).rstrip() for row in rows]


def _cell(text: str, size: int) -> str:
    return set_cell_size(text, size) if cell_len(text) <= size else set_cell_size(text, size - 1) + "…"


def _short(value: Any) -> str:
    """A value in a table: a time to the second, a number to four digits, a text on one line."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(_text(value).split()))
    return f"{text[:10]} {text[11:19]}" if _TIME.fullmatch(text) else text


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
