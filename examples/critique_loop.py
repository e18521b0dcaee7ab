"""The critique loop over HTTP: a GRAPE job's critiques become revisions, accepted revisions become data, and data a better model.

On the demo's task: a small model is made and taught mixed habits; a GRAPE job samples, and the judge says what is wrong with
every answer; a reviser is given prompt, answer and critiques; both texts are graded afresh and blind; what grades better goes into
a dataset of preferences and one of demonstrations; a DPO job learns from the one, an SFT job from the other; and `evaluate` jobs
compare each model with the start on held-out prompts. It runs against the `grape up` of --data-dir, and starts one if none answers.

    python -m examples.critique_loop

Ends with exit code 0 if every part ran.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from examples.demo import Demo
from examples.outcome import SAMPLES
from examples.stack import ExampleFailed, scripted_judge, scripted_reviser, service_for
from service.cli.revisions import follow
from service.client import ApiError, Corrupt, GrapeClient, Unreachable, default_folder

LINE = "  {:<26}{:>8}{:>8}{:>12}{:>20}{:>18}"


@dataclass(slots=True)
class Loop:
    """One run; `demo` has the task, the rubric and the jobs' common part."""

    demo: Demo
    reviser: str

    @property
    def api(self) -> GrapeClient:
        """The service."""
        return self.demo.api

    def go(self) -> int:
        """The whole circle; 0 if every part ran."""
        demo, options = self.demo, self.demo.options
        start, training, held_out = demo.tiny_material()
        rubric, version, _ = demo.write_rubric()
        demo.headline(f"GRAPE for {options.steps} steps: answers with critiques")
        grape = demo.run_job(demo.grape_spec(start, training, rubric, version))
        demo.headline("Revisions of each group's worst answer, graded afresh and blind beside it")
        revision = self.revise(grape["id"])
        demo.headline("DPO on the pairs, SFT on the demonstrations")
        dpo = demo.run_job(self.dpo_spec(start, revision["preferences"]))
        sft = demo.run_job(self.sft_spec(start, revision["demonstrations"]))
        demo.headline("Each against the start, on held-out prompts")
        found = {
            name: self.against(
                start, held_out, {"id": rubric, "version": version}, name=name, model=job["result"]["model"]
            )
            for name, job in (("GRAPE", grape), ("DPO on accepted pairs", dpo), ("SFT on accepted revisions", sft))
        }
        return self.tell(revision, found)

    def revise(self, job: str) -> dict[str, Any]:
        """Ask for revisions of the job's completions; the request, which must succeed with something accepted."""
        request = self.api.post("/v1/revisions", {"job": job, "reviser": self.reviser, "votes": 2})
        request = follow(self.api, f"/v1/revisions/{request['id']}")
        if request["status"] != "succeeded":
            raise ExampleFailed(f"{request['id']} {request['status']}: {request['error'] or request['status_reason']}")
        summary = request["summary"]
        if not summary["accepted"]:
            raise ExampleFailed(f"none of {summary['pairs']} revisions was accepted: {summary['rejected']}")
        for kind in ("preferences", "demonstrations"):
            print_line(self.demo, f"  {summary['published'][kind]} {kind} ({request[kind]})")
        rows = list(self.api.get(f"/v1/revisions/{request['id']}/results", limit=100)["data"])
        for accepted in (True, False):
            graded = (row for row in rows if row["accepted"] is accepted and row["difference"] is not None)
            self.show(next(graded, None))
        return request

    def show(self, result: dict[str, Any] | None) -> None:
        """One pair as it came about."""
        if result is None:
            return
        before = self.api.get(f"/v1/completions/{result['original']['completion']}")
        after = self.api.get(f"/v1/completions/{result['better']['completion']}")
        print_line(self.demo, f"\n  {before['prompt']['messages'][-1]['content']}")
        print_line(self.demo, f"    answer:   {before['text']}  (graded afresh {reward(result['original'])})")
        for critique in result["critiques"]:
            print_line(self.demo, f"      {self.api.get(f'/v1/critiques/{critique}')['text']}", style="dim")
        print_line(self.demo, f"    revision: {after['text']}  (graded {reward(result['better'])})")
        verdict = "accepted" if result["accepted"] else f"rejected, {result['reason']}: {result['message']}"
        print_line(self.demo, f"    {verdict}", style="green" if result["accepted"] else "yellow")

    def dpo_spec(self, start: str, preferences: str) -> dict[str, Any]:
        """Learn from accepted pairs."""
        return {
            "name": "critique loop: dpo",
            "algorithm": {"type": "dpo", "beta": 0.1},
            "policy": {"model": start},
            "data": {"preferences": preferences},
            "training": {"steps": 40, "batch_size": 32, "learning_rate": 2e-4, "seed": self.demo.options.seed},
        }

    def sft_spec(self, start: str, demonstrations: str) -> dict[str, Any]:
        """Learn from accepted revisions."""
        return {
            "name": "critique loop: sft",
            "algorithm": {"type": "sft"},
            "policy": {"model": start},
            "data": {"demonstrations": demonstrations},
            "training": {"steps": 40, "batch_size": 32, "learning_rate": 5e-4, "seed": self.demo.options.seed},
        }

    def against(self, start: str, held_out: str, rubric: dict[str, Any], *, name: str, model: str) -> dict[str, Any]:
        """The comparison of an `evaluate` job: both models sampled on the same held-out prompts with the same seeds."""
        job = self.demo.run_job(
            {
                "name": f"critique loop: {name}",
                "algorithm": {"type": "evaluate", "compare_to": {"model": start}},
                "policy": {"model": model},
                "data": {"prompts": held_out},
                "rubric": rubric,
                "rollout": {
                    "temperature": 1.0,
                    "group_size": SAMPLES,
                    "max_completion_tokens": self.demo.options.max_completion_tokens,
                },
                "training": {"seed": self.demo.options.seed},
            }
        )
        found: dict[str, Any] = job["result"]["comparison"]["overall"]
        return found

    def tell(self, revision: dict[str, Any], found: dict[str, dict[str, Any]]) -> int:
        """The table, the report, and what it comes to."""
        demo, summary = self.demo, revision["summary"]
        reasons = ", ".join(f"{count} {reason}" for reason, count in summary["rejected"].items()) or "none"
        print_line(demo, f"\n  {summary['accepted']} of {summary['pairs']} revisions accepted; rejected: {reasons}")
        print_line(demo, "\n  Held-out prompts, sampled: plain reward, and the audit that nothing is trained on")
        print_line(demo, LINE.format("", "start", "after", "difference", "95 % interval", "audit"), style="bold")
        for name, overall in found.items():
            plain, audit = overall["plain_reward"], overall["criteria"]["one_room"]
            numbers = (f"{plain['compare_to']:.3f}", f"{plain['policy']:.3f}", f"{plain['difference']:+.3f}")
            interval = f"{plain['low']:+.3f} to {plain['high']:+.3f}"
            audits = f"{audit['compare_to']:.3f} → {audit['policy']:.3f}"
            print_line(demo, LINE.format(name, *numbers, interval, audits))
        seconds = time.monotonic() - demo.started
        report = {"seconds": round(seconds, 1), "revision": summary, "against_start": found, "jobs": demo.jobs,
                  "seed": demo.options.seed, "scripted": {"judge": demo.scripted, "reviser": demo.options.reviser_url is None}}  # fmt: skip
        path = demo.folder / "critique_loop.json"
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        print_line(demo, f"\n  report {path}")
        for name, overall in found.items():
            if overall["plain_reward"]["low"] <= 0:
                print_line(demo, f"  {name}: no better than the start, as far as the interval tells", style="yellow")
        demo.console.print(f"\n[green]Done in {seconds:.0f} s.[/]")
        return 0


def print_line(demo: Demo, text: str, style: str = "") -> None:
    """As it is."""
    demo.console.print(text, highlight=False, markup=False, style=style)


def reward(side: dict[str, Any]) -> str:
    """A side's plain reward."""
    return "null" if side["plain_reward"] is None else f"{side['plain_reward']:.2f}"


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.critique_loop", description="From critiques to a better model, over HTTP."
    )
    parser.add_argument("--data-dir", type=Path, default=Path(os.environ.get("GRAPE_DATA_DIR") or default_folder()),
                        help="the folder of a `grape up`; one is started there if none answers")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    for who in ("judge", "reviser"):
        parser.add_argument(
            f"--{who}-url", help=f"an OpenAI-compatible endpoint, e.g. http://localhost:8001/v1; else a scripted {who}"
        )
        parser.add_argument(f"--{who}-model", help="the model to ask there")
        parser.add_argument(f"--{who}-key-env", help="the environment variable that holds the endpoint's key")
    parser.add_argument("--steps", type=int, default=16, help="optimizer steps of GRAPE")
    parser.add_argument("--sft-steps", type=int, default=250, help="optimizer steps of the first SFT")
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="of GRAPE")
    parser.add_argument("--max-completion-tokens", type=int, default=16)
    options = parser.parse_args(arguments)
    for who in ("judge", "reviser"):
        if bool(getattr(options, f"{who}_url")) != bool(getattr(options, f"{who}_model")):
            parser.error(f"--{who}-url and --{who}-model go together")
    options.model = None  # the demo's own task
    return options


def endpoint(
    stack: contextlib.ExitStack, api: GrapeClient, options: argparse.Namespace, who: str, console: Console
) -> str:
    """The judge or the reviser: the endpoint that is named, else a scripted one; the id of its judge."""
    url, key_env = getattr(options, f"{who}_url"), getattr(options, f"{who}_key_env")
    if url is None:
        running = scripted_judge(options.seed, "--votes-differ") if who == "judge" else scripted_reviser(options.seed)
        found = stack.enter_context(running)
        said = f"{who}: a SCRIPTED one, rules behind the OpenAI protocol; use your own with --{who}-url"
        console.print(said, style="yellow")
        body, name = (
            {"base_url": found["base_url"], "model": found["model"]},
            f"scripted {who} (rules, not a language model)",
        )
    else:
        body, name = {"base_url": url, "model": getattr(options, f"{who}_model")}, getattr(options, f"{who}_model")
    if key_env:
        body["api_key"] = os.environ.get(key_env, "")
    judge_id: str = api.post("/v1/judges", {"name": name, "endpoint": body, "concurrency": 32})["id"]
    return judge_id


def main() -> int:
    """Run it; 0 if every part ran."""
    options = parse(sys.argv[1:])
    console = Console(soft_wrap=True)
    data_dir = options.data_dir.expanduser().absolute()
    folder = data_dir / "critique-loop"
    try:
        with contextlib.ExitStack() as stack:
            api, ours = stack.enter_context(service_for(data_dir, []))
            console.print(f"service at {api.base_url}{' (started for this run)' if ours else ''}", highlight=False)
            folder.mkdir(parents=True, exist_ok=True)
            judge, reviser = (endpoint(stack, api, options, who, console) for who in ("judge", "reviser"))
            demo = Demo(api, folder, options, judge, options.judge_url is None, console)
            return Loop(demo, reviser).go()
    except (ExampleFailed, ApiError, Unreachable, Corrupt, OSError) as error:
        Console(stderr=True).print(f"critique loop: {error}", style="red", markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
