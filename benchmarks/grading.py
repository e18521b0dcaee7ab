"""`python -m benchmarks.grading`: what grading costs beside the judge's own time. Targets: "Grading" of the design's targets.

Starts a whole stack on a folder of its own (embedded Postgres and Valkey, API, workers) and a fake judge in another process, and
prints a table; `--out` writes it as JSON too. Numbers are medians over repeats where a row is short.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.judging.overlap import hidden
from benchmarks.judging.rows import Bench, Row, cached, fake_judge, judged, sandboxed, verifiable
from examples.stack import service_for

PACKAGES = ("fastapi", "SQLAlchemy", "psycopg", "httpx", "httpcore", "uvloop", "uvicorn", "celery")


def rows(bench: Bench, folder: Path, only: str, repeats: int) -> list[Row]:
    """Measure; a row is said as soon as it is there."""
    faults = {"errors": 0.01, "limited": 0.01, "retry_after": 2.0}
    wanted: list[tuple[str, Callable[[], Row]]] = [
        ("verifiable", lambda: verifiable(repeats)),
        ("sandbox", lambda: sandboxed(repeats)),
        ("cached", lambda: cached(bench, repeats)),
        (
            "0.2s",
            lambda: judged(
                bench, "2,560 calls of 0.2 s, 64 in flight", target=11, ideal=8, repeats=repeats, mode={"latency": 0.2}
            ),
        ),
        (
            "1s",
            lambda: judged(
                bench, "2,560 calls of 1 s, 64 in flight", target=46, ideal=40, repeats=repeats, mode={"latency": 1.0}
            ),
        ),
        (
            "2s",
            lambda: judged(
                bench, "2,560 calls of 2 s ± 50 %, 1 % 500s, 1 % 429s", target=105, ideal=80, repeats=repeats,
                mode={"latency": 2.0, "jitter": 0.5, **faults},
            ),
        ),
        ("hidden", lambda: hidden(bench, folder, max(2, repeats))),
    ]  # fmt: skip
    found = []
    for name, measure in wanted:
        if only and only != name:
            continue
        row = measure()
        print(line(row), file=sys.stderr, flush=True)
        found.append(row)
    return found


def line(row: Row) -> str:
    """A row of the table."""
    sign = "≥" if row.at_least else "≤"
    target = "" if row.target is None else f"{sign} {row.target:g}"
    ideal = "" if row.ideal is None else f"{row.ideal:g}"
    verdict = {True: "met", False: "MISSED", None: ""}[row.met]
    spread = f"{min(row.values):.4g}–{max(row.values):.4g}" if len(row.values) > 1 else ""
    return f"| {row.name} | {row.value:.4g} {row.unit} | {spread} | {target} | {ideal} | {verdict} {'; '.join(row.faults)} |"


def versions(database: str) -> dict[str, Any]:
    """What was measured, on what."""
    return {
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "postgres": database,
        **{name: version(name) for name in PACKAGES},
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 1 with `--check` if a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grading", description=__doc__)
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    parser.add_argument("--only", default="", help="one row: verifiable, sandbox, cached, 0.2s, 1s, 2s, hidden")
    parser.add_argument(
        "--repeats", type=int, default=5, help="how often each row is measured; all five take 15 minutes"
    )
    parser.add_argument("--check", action="store_true", help="exit 1 if a target is missed")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="grape-bench-") as folder:
        path = Path(folder)
        path.chmod(0o755)
        with service_for(path / "data", [path]) as (api, _), fake_judge() as fake:
            found = rows(Bench.make(api, fake), path, options.only, options.repeats)
    from service.local.binaries import postgres_folder

    said = subprocess.run(
        [postgres_folder() / "bin" / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    known = versions(said.stdout.strip())
    print("| measure | median | spread | target | ideal | |\n|---|---|---|---|---|---|")
    for row in found:
        print(line(row))
    print("\nVersions: " + ", ".join(f"{name} {value}" for name, value in known.items()))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        rows_out = [{**vars(row), "value": row.value, "met": row.met} for row in found]
        options.out.write_text(json.dumps({"rows": rows_out, "versions": known}, indent=1, ensure_ascii=False) + "\n")
    return int(options.check and any(row.met is False for row in found))


if __name__ == "__main__":
    raise SystemExit(main())
