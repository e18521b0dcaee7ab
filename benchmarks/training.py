"""`python -m benchmarks.training`: one optimizer step of ours and of TRL's, side by side on the same model and data.

Needs the peers (`make test-parity` installs them). Contenders are processes that take steps in turns; before anything is timed,
loss and gradient norm of the two sides are compared in float32. Prints a table, writes JSON into `--out`. A row takes two to six
minutes on two cores; nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.trainers.measure import measure
from benchmarks.trainers.model import make_model
from benchmarks.trainers.report import as_json, markdown
from benchmarks.trainers.rows import ROWS
from benchmarks.trainers.sizes import FULL, QUICK
from benchmarks.trainers.worker import versions


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the rows, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--rows", default=",".join(ROWS), help=f"some of {', '.join(ROWS)}")
    parser.add_argument("--quick", action="store_true", help="the same path in seconds; the numbers mean nothing")
    parser.add_argument("--repeats", type=int, help="timed steps of each contender")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of each contender")
    parser.add_argument("--out", type=Path, default=Path("build/training"), help="folder of the results")
    options = parser.parse_args(arguments)
    sizes = QUICK if options.quick else FULL
    if options.repeats:
        sizes = replace(sizes, repeats=options.repeats)
    unknown = [name for name in options.rows.split(",") if name not in ROWS]
    if unknown:
        parser.error(f"no such rows: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    options.out.mkdir(parents=True, exist_ok=True)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        parameters = make_model(Path(folder), sizes)
        about = {
            "sizes": asdict(sizes), "parameters": parameters, "threads": options.threads, "versions": versions(),
            "when": time.strftime("%Y-%m-%d"),
        }  # fmt: skip
        for name in options.rows.split(","):
            one = measure(ROWS[name], sizes, Path(folder), options.threads, lambda text: print(text, file=sys.stderr))
            found.append(one)
            (options.out / f"{name}.json").write_text(json.dumps(as_json([one], about), indent=1) + "\n")
    table = markdown(found)
    print(f"{parameters / 1e6:.2f}M parameters, {options.threads} threads, {about['versions']}\n\n{table}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
