"""`grape demo`: rubric in, better model out, over HTTP only, in a few minutes on two cores.

It makes a small model from scratch, teaches it to answer at all (SFT on demonstrations of mixed habits), writes down what good
means as a rubric, publishes a second version of it, trains on that rubric with GRAPE, and measures held-out prompts before and
after by plain reward. It ends with exit code 0 only if every part worked and the model learned.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from examples import task
from examples.outcome import HELD_OUT, SAMPLES, Outcome
from examples.stack import ExampleFailed, scripted_judge, service_for
from examples.tiny_model import make_tiny_model
from service.cli.common import read_file
from service.cli.jobs import follow
from service.client import ApiError, Corrupt, GrapeClient, Unreachable, default_folder


@dataclass(slots=True)
class Demo:
    """One run of the demo against one service."""

    api: GrapeClient
    folder: Path
    options: argparse.Namespace
    judge: str
    scripted: bool
    console: Console
    started: float = field(default_factory=time.monotonic)
    jobs: list[str] = field(default_factory=list)

    @property
    def own(self) -> bool:
        """Whether a person brought a model, prompts and a rubric."""
        return self.options.model is not None

    def headline(self, text: str) -> None:
        """A step of the story."""
        self.console.print(f"\n[bold]{text}[/]  [dim]{time.monotonic() - self.started:.0f} s[/]")

    def run_job(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Submit, watch to the end; the job, which must succeed."""
        job = self.api.post("/v1/jobs", spec)
        self.jobs.append(job["id"])
        job = follow(self.api, job["id"])
        if job["status"] != "succeeded":
            error = job["error"] or {"code": job["status"], "message": job["status_reason"] or ""}
            raise ExampleFailed(f"{spec['name']} ({job['id']}) {job['status']}: {error['code']}: {error['message']}")
        return job

    def dataset(self, name: str, kind: str, rows: list[dict[str, Any]]) -> str:
        """A dataset with these rows."""
        dataset_id: str = self.api.post("/v1/datasets", {"name": name, "kind": kind})["id"]
        batch = self.api.upload_rows(dataset_id, rows)
        self.console.print(f"  {name}: {batch['rows']} rows ({dataset_id})", highlight=False)
        return dataset_id

    # --- the steps ---

    def go(self) -> int:
        """The whole story; 0 if it ended well."""
        start, training, held_out = self.own_material() if self.own else self.tiny_material()
        rubric_id, version, titles = self.write_rubric()
        self.headline("Held-out prompts before")
        before = self.evaluate("before", start, held_out, rubric_id, version)
        self.headline(f"GRAPE on version {version} of the rubric")
        job = self.run_job(self.grape_spec(start, training, rubric_id, version))
        self.headline("Held-out prompts after")
        after = self.evaluate("after", job["result"]["model"], held_out, rubric_id, version)
        self.headline("The checkpoint: downloaded, verified, loaded")
        checkpoint = self.fetch_checkpoint(job)
        seconds = time.monotonic() - self.started
        outcome = Outcome(
            self.api, self.folder, self.console, self.options, self.scripted, self.own, self.jobs, seconds
        )
        self.headline("What changed")
        return outcome.tell(job, before, after, checkpoint, titles)

    def tiny_material(self) -> tuple[str, str, str]:
        """A model from scratch, taught to answer: (its id, training prompts, held-out prompts)."""
        seed = self.options.seed
        self.headline("A model from scratch, and data")
        words = [*task.OTHER_WORDS, *task.ROOMS, *task.THINGS]
        place = self.folder / f"model-{seed}"
        parameters = make_tiny_model(place, words, seed)
        model = self.api.register_model("tiny", {"path": str(place)})
        self.console.print(f"  a llama-style model with {parameters:,} parameters ({model['id']})", highlight=False)
        seen, unseen = task.split_things(seed)
        demonstrations = self.dataset("demonstrations", "demonstrations", task.demonstrations(seen, 6000, seed))
        training = self.dataset("prompts", "prompts", task.prompts(seen, 1000, seed))
        held_out = self.dataset("held-out prompts", "prompts", task.prompts(unseen, HELD_OUT, seed))
        self.headline("SFT on demonstrations of mixed habits")
        sft = self.run_job(
            {
                "name": "demo: sft",
                "algorithm": {"type": "sft"},
                "policy": {"model": model["id"]},
                "data": {"demonstrations": demonstrations},
                "training": {"steps": self.options.sft_steps, "batch_size": 64, "learning_rate": 3e-3, "seed": seed},
            }
        )
        return sft["result"]["model"], training, held_out

    def own_material(self) -> tuple[str, str, str]:
        """A person's own model and prompts; a part of the prompts is held out."""
        self.headline("Your model and prompts")
        model = self.api.register_model(self.options.model.name, {"path": str(self.options.model.resolve())})
        try:
            rows = [json.loads(line) for line in self.options.prompts.read_text().splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            raise ExampleFailed(f"{self.options.prompts} cannot be read as NDJSON: {error}") from None
        cut = len(rows) - min(HELD_OUT, max(1, len(rows) // 5))
        if cut < 1:
            raise ExampleFailed(
                f"{self.options.prompts} has {len(rows)} prompts; at least 2 are needed, one to hold out"
            )
        training = self.dataset("prompts", "prompts", rows[:cut])
        return model["id"], training, self.dataset("held-out prompts", "prompts", rows[cut:])

    def write_rubric(self) -> tuple[str, int, dict[str, str]]:
        """The rubric: (its id, the version to train on, the criteria's titles)."""
        if self.own:
            self.headline("Your rubric")
            content = read_file(self.options.rubric)
            content = json.loads(
                json.dumps(content.get("content", content)).replace('"judge": "demo"', f'"judge": "{self.judge}"')
            )
            versions = [content]
        else:
            self.headline("A rubric: a verifier, a format, judged criteria, an audit")
            versions = [task.rubric_v1(self.judge), task.rubric_v2(self.judge)]
        rubric = self.api.post("/v1/rubrics", {"name": "demo", "content": versions[0], "message": "first draft"})
        number = 1
        for content in versions[1:]:
            number = self.api.publish_version(rubric["id"], content, "fluency was missing")["version"]
        self.console.print(f"  {rubric['id']}, version {number}", highlight=False)
        titles = {"plain_reward": "plain reward", "audit": "audit (never trained on)"}
        for criterion in versions[-1]["criteria"]:
            kind = "audit" if criterion.get("audit") else "score"
            if kind == "score":
                titles[f"score.{criterion['key']}"] = f"  {criterion['key']}"
            self.console.print(f"  - {criterion.get('title') or criterion['key']}", highlight=False, markup=False)
        return rubric["id"], number, titles

    def grape_spec(self, start: str, training: str, rubric_id: str, version: int) -> dict[str, Any]:
        """The training job."""
        return {
            "name": "demo: grape",
            "algorithm": {"type": "grape"},
            "policy": {"model": start},
            "data": {"prompts": training},
            "rubric": {"id": rubric_id, "version": version},
            "rollout": {
                "group_size": 8,
                "prompts_per_step": 8,
                "max_completion_tokens": self.options.max_completion_tokens,
            },
            "training": {
                "steps": self.options.steps,
                "learning_rate": self.options.learning_rate,
                "seed": self.options.seed,
            },
            "checkpoints": {"every_steps": max(1, self.options.steps // 4), "keep": 2},
        }

    def evaluate(self, name: str, model: str, held_out: str, rubric_id: str, version: int) -> dict[str, Any]:
        """Sampled and greedy, by the same rubric version and judge revision: metrics by name, and the job's id."""
        found: dict[str, Any] = {}
        for way, temperature, samples in (("sampled", 1.0, SAMPLES), ("greedy", 0.0, 1)):
            job = self.run_job(
                {
                    "name": f"demo: {name}, {way}",
                    "algorithm": {"type": "evaluate"},
                    "policy": {"model": model},
                    "data": {"prompts": held_out},
                    "rubric": {"id": rubric_id, "version": version},
                    "rollout": {
                        "temperature": temperature,
                        "group_size": samples,
                        "max_completion_tokens": self.options.max_completion_tokens,
                    },
                    "training": {"seed": self.options.seed},
                }
            )
            series = self.api.get(f"/v1/jobs/{job['id']}/metrics")["data"]
            prefix = "evaluation."
            found[way] = {s["name"].removeprefix(prefix): s["points"][-1]["value"] for s in series}
            found[way]["job"] = job["id"]
            found["judges"] = job["judges"]
        return found

    def fetch_checkpoint(self, job: dict[str, Any]) -> dict[str, Any]:
        """Download with every hash checked, load it with plain transformers, let it say something."""
        from transformers import AutoModelForCausalLM, AutoTokenizer

        checkpoint_id = job["result"]["best_checkpoint"]
        place = self.folder / "checkpoint" / checkpoint_id
        self.api.download_checkpoint(checkpoint_id, place)
        model = AutoModelForCausalLM.from_pretrained(place)
        tokenizer = AutoTokenizer.from_pretrained(place)
        row = next(self.api.pages(f"/v1/jobs/{job['id']}/completions", limit=1))
        text = row["prompt"]["messages"][-1]["content"]
        if tokenizer.chat_template:
            ids = tokenizer.apply_chat_template(
                row["prompt"]["messages"], add_generation_prompt=True, return_tensors="pt", return_dict=True
            )["input_ids"]
        else:
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
        output = model.generate(ids, max_new_tokens=self.options.max_completion_tokens, do_sample=False)
        said = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
        self.console.print(f"  {place}", highlight=False)
        self.console.print(f"  asked: {text}\n  said:  {said}", highlight=False, markup=False)
        registered = self.api.get(f"/v1/models/{job['result']['model']}")
        return {
            "id": checkpoint_id,
            "path": str(place),
            "sha256": registered["sha256"],
            "verified": True,
            "loads": bool(said),
        }


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="grape demo", description="Rubric in, better model out: the whole path, over HTTP."
    )
    parser.add_argument("--data-dir", type=Path, default=Path(os.environ.get("GRAPE_DATA_DIR") or default_folder()),
                        help="the folder of a `grape up`; one is started there if none answers")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--judge-url", help="an OpenAI-compatible endpoint, e.g. http://localhost:8001/v1; else a scripted judge"
    )
    parser.add_argument("--judge-model", help="the model to ask there")
    parser.add_argument("--judge-key-env", help="the environment variable that holds the endpoint's key")
    parser.add_argument(
        "--model", type=Path, help="a model of your own (a transformers folder), with --prompts and --rubric"
    )
    parser.add_argument("--prompts", type=Path, help="your prompts, NDJSON")
    parser.add_argument(
        "--rubric", type=Path, help='your rubric, JSON or YAML; "judge": "demo" stands for the demo\'s judge'
    )
    parser.add_argument("--steps", type=int, default=60, help="optimizer steps of GRAPE")
    parser.add_argument("--sft-steps", type=int, default=250, help="optimizer steps of SFT")
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="of GRAPE")
    parser.add_argument("--max-completion-tokens", type=int, default=16)
    options = parser.parse_args(arguments)
    if bool(options.judge_url) != bool(options.judge_model):
        parser.error("--judge-url and --judge-model go together")
    own = (options.model, options.prompts, options.rubric)
    if any(own) and not all(own):
        parser.error("--model, --prompts and --rubric go together")
    return options


def main() -> int:
    """Run it; 0 if everything worked and the model learned."""
    options = parse(sys.argv[1:])
    console = Console(soft_wrap=True)
    data_dir = options.data_dir.expanduser().absolute()
    folder = data_dir / "demo"
    try:
        with contextlib.ExitStack() as stack:
            roots = [options.model.resolve()] if options.model else []
            api, ours = stack.enter_context(service_for(data_dir, roots))
            console.print(f"service at {api.base_url}{' (started for this run)' if ours else ''}", highlight=False)
            folder.mkdir(parents=True, exist_ok=True)
            scripted = options.judge_url is None
            if scripted:
                endpoint = stack.enter_context(scripted_judge(options.seed))
                console.print(
                    "judge: a SCRIPTED one, rules behind the OpenAI protocol; use your own with --judge-url",
                    style="yellow",
                )
            else:
                endpoint = {"base_url": options.judge_url, "model": options.judge_model}
            body = {"base_url": endpoint["base_url"], "model": endpoint["model"]}
            if options.judge_key_env:
                body["api_key"] = os.environ.get(options.judge_key_env, "")
            name = "scripted judge (rules, not a language model)" if scripted else options.judge_model
            judge = api.post("/v1/judges", {"name": name, "endpoint": body, "concurrency": 32})
            return Demo(api, folder, options, judge["id"], scripted, console).go()
    except (ExampleFailed, ApiError, Unreachable, Corrupt, OSError) as error:
        Console(stderr=True).print(f"grape demo: {error}", style="red", markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
