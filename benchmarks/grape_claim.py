"""`python -m benchmarks.grape_claim`: does weighting by confidence need fewer samples? Protocol: `benchmarks/protocol.md`.

Prints Markdown tables and writes `result.json`, `tables.md` and pictures into `--out`. Finished runs are kept there in
`runs.jsonl`: an interrupted measurement goes on. On one core the categorical table takes about 10 minutes and that of the
transformers policy about 40.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.claim.analysis import Analysis
from benchmarks.claim.plot import draw
from benchmarks.claim.protocol import FULL, QUICK, PolicyKind
from benchmarks.claim.report import as_json, markdown
from benchmarks.claim.runner import run_missing
from benchmarks.claim.store import RunStore

POLICIES: dict[str, tuple[PolicyKind, ...]] = {
    "categorical": ("categorical",),
    "transformers": ("transformers",),
    "all": ("categorical", "transformers"),
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grape_claim", description=__doc__)
    parser.add_argument("--policy", choices=sorted(POLICIES), default="all")
    parser.add_argument("--out", type=Path, default=Path("build/grape_claim"), help="folder for runs and results")
    parser.add_argument("--quick", action="store_true", help="the same path in seconds; the numbers mean nothing")
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
    parser.add_argument("--minutes", type=float, help="start no new run after so long; run again to go on")
    parser.add_argument("--report-only", action="store_true", help="train nothing: tables of what has been measured")
    parser.add_argument("--check", action="store_true", help="exit 1 if a claim fails or is not measured yet")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, report what there is; 0, or 1 with `--check` if a claim does not hold."""
    options = parse(arguments)
    protocol = QUICK if options.quick else FULL
    policies = POLICIES[options.policy]
    store = RunStore(options.out, protocol.digest)
    left = 0
    if not options.report_only:
        left = run_missing(
            protocol, policies, store, processes=options.processes, minutes=options.minutes,
            say=lambda text: print(text, file=sys.stderr, flush=True),
        )  # fmt: skip
    if left:
        print(f"{left} runs are still to do; run the same command again to go on.", file=sys.stderr)
    analyses = [Analysis(protocol, policy, store) for policy in policies]
    tables = markdown(analyses)
    print(tables)
    (options.out / "tables.md").write_text(tables + "\n")
    (options.out / "result.json").write_text(json.dumps(as_json(analyses, store)) + "\n")
    for analysis in analyses:
        for path in draw(analysis, options.out):
            print(f"wrote {path}", file=sys.stderr)
    claims = [v for a in analyses for v in a.verdicts() if v.claimed]
    measured = len(claims) == 3 * len(policies)
    return int(options.check and not (measured and all(v.holds for v in claims)))


if __name__ == "__main__":
    sys.exit(main())
