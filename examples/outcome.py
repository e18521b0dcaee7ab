"""What the demo comes to: tables, examples, curves, `report.json`, and whether it was a success."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.story import draw_curves, show_completion, show_scores, sparkline
from service.client import GrapeClient

HELD_OUT, SAMPLES = 64, 4
MARGIN = 0.15
"""How much plain reward on held-out prompts has to rise, at least."""


@dataclass(slots=True)
class Outcome:
    """A demo that has run: what it was, for telling."""

    api: GrapeClient
    folder: Path
    console: Console
    options: argparse.Namespace
    scripted: bool
    own: bool
    jobs: list[str]
    seconds: float

    def tell(
        self,
        job: dict[str, Any],
        before: dict[str, Any],
        after: dict[str, Any],
        checkpoint: dict[str, Any],
        titles: dict[str, str],
    ) -> int:
        """Tables, completions, curves, the report, and what it comes to."""
        series = {s["name"]: [(p["step"], p["value"]) for p in s["points"] if not p["superseded"]]
                  for s in self.api.get(f"/v1/jobs/{job['id']}/metrics")["data"]}  # fmt: skip
        show_scores(self.console, before["sampled"], after["sampled"], titles)
        rewards = [value for _, value in series.get("plain_reward", [])]
        self.console.print(f"\n  plain reward over {len(rewards)} steps  {sparkline(rewards)}", highlight=False)
        self.show_examples(before["sampled"]["job"], after["sampled"]["job"])
        label = (
            "judge: SCRIPTED (rules, not a language model)" if self.scripted else f"judge: {self.options.judge_model}"
        )
        curves = self.folder / "curves.png"
        draw_curves(series, curves, note=f"GRAPE demo, seed {self.options.seed}; {label}")
        report = self.report(job, before, after, checkpoint, series)
        path = self.folder / "report.json"
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        self.console.print(f"\n  {label}", style="yellow" if self.scripted else "")
        self.console.print(f"  curves {curves}\n  report {path}", highlight=False)
        problems = self.problems(before, after, report)
        for problem in problems:
            self.console.print(f"[red]  {problem}[/]")
        if not problems:
            self.console.print(f"\n[green]Done in {report['seconds']:.0f} s.[/]")
        return 1 if problems else 0

    def show_examples(self, before: str, after: str) -> None:
        """Three prompts, answered before and after."""
        query = {"purpose": "evaluation", "limit": SAMPLES * 3}
        first = list(self.api.get(f"/v1/jobs/{before}/completions", **query)["data"])[::SAMPLES]
        second = list(self.api.get(f"/v1/jobs/{after}/completions", **query)["data"])[::SAMPLES]
        for old, new in zip(first, second, strict=True):
            self.console.print(f"\n  {old['prompt']['messages'][-1]['content']}", highlight=False, markup=False)
            show_completion(self.console, "before", old)
            show_completion(self.console, "after ", new)

    def report(
        self,
        job: dict[str, Any],
        before: dict[str, Any],
        after: dict[str, Any],
        checkpoint: dict[str, Any],
        series: dict[str, Any],
    ) -> dict[str, Any]:
        """`report.json`."""

        def side(way: str) -> dict[str, Any]:
            old, new = before[way], after[way]
            keys = sorted({name.removeprefix("score.") for name in (*old, *new) if name.startswith("score.")})
            return {
                "reward_before": old.get("plain_reward"),
                "reward_after": new.get("plain_reward"),
                "audit_before": old.get("audit"),
                "audit_after": new.get("audit"),
                "criteria": {
                    key: {"before": old.get(f"score.{key}"), "after": new.get(f"score.{key}")} for key in keys
                },
            }

        evaluations = [which[way] for which in (before, after) for way in ("sampled", "greedy")]
        return {
            "seconds": round(self.seconds, 1),
            **side("sampled"),
            "greedy": side("greedy"),
            "null_cells": int(
                sum(v for _, v in series.get("null_cells", [])) + sum(e["null_cells"] for e in evaluations)
            ),
            "retries": int(
                sum(v for _, v in series.get("judge_retries", [])) + sum(e["judge_retries"] for e in evaluations)
            ),
            "min_coverage": min(
                [v for _, v in series.get("min_coverage", [])] + [e["min_coverage"] for e in evaluations]
            ),
            "checkpoint": checkpoint,
            "job_id": job["id"],
            "jobs": self.jobs,
            "rubric": {"id": job["rubric"]["id"], "version": job["rubric"]["version"], "hash": job["rubric"]["hash"]},
            "judge": {"scripted": self.scripted, "revisions": job["judges"]},
            "prompts": {"held_out": HELD_OUT, "samples": SAMPLES},
            "seed": self.options.seed,
        }

    def problems(self, before: dict[str, Any], after: dict[str, Any], report: dict[str, Any]) -> list[str]:
        """Why this is not a success."""
        found = []
        if before["judges"] != after["judges"]:
            found.append("the judges changed between before and after, so the numbers cannot be compared")
        if not report["checkpoint"]["loads"]:
            found.append("the checkpoint loads but says nothing")
        if self.own:
            return found
        gain = report["reward_after"] - report["reward_before"]
        if gain < MARGIN:
            found.append(f"plain reward on held-out prompts rose by {gain:.3f}, less than {MARGIN}")
        if report["audit_after"] <= report["audit_before"]:
            found.append(f"the audit did not rise: {report['audit_before']:.3f} to {report['audit_after']:.3f}")
        if self.scripted and not (report["null_cells"] and report["retries"]):
            found.append("the scripted judge caused no null cell or no retry, so those paths were not tried")
        return found
