"""The loop on several processes: `python -m torch.distributed.run --nproc-per-node N -m tests.support.ranks FOLDER PLAN`.

PLAN is JSON: a list of cases. Rank 0 writes what each came to, losses and weights, where the case says. With one process the same
code runs without a team.
"""

import json
import os
import sys
from pathlib import Path

import torch

from tests.support.training import algorithm_of, run_of, spec_of
from workers.policy.heads import add_value_model, load_reward_policy
from workers.policy.loading import ModelFiles, load_policy
from workers.training.checkpoint import read_trainer_state, restore_models, restore_optimizer, write_checkpoint
from workers.training.optim import build_optimizer
from workers.training.team import Team
from workers.training.together import Crew, TeamPolicy, follow


def loaded(folder, case, spec, resume):
    options = {"adapter": spec.adapter, "precision": "fp32", "budget": case.get("budget", 10_000), "seed": 0}
    files = ModelFiles("mdl_test", Path(case.get("model", folder)), [])
    if case["kind"] == "reward_model":
        return load_reward_policy(files, resume=resume, **options)
    policy = load_policy(files, reference=case.get("reference", False), resume=resume, **options)
    if "value" in case:
        add_value_model(policy, case["value"], files, **options)
    return policy


def run_case(folder, case, team):
    spec = spec_of(case["kind"], **case.get("spec", {}))
    resume = Path(case["resume"]) if "resume" in case else None
    policy, algorithm = loaded(folder, case, spec, resume), algorithm_of(spec)
    if resume is not None:
        restore_models(resume, policy)
    if team is not None:
        policy = TeamPolicy(policy, team)
        algorithm.crew = Crew(policy)
    optimizer = build_optimizer(policy, spec.training, algorithm.value_learning_rate)
    if resume is not None:
        restore_optimizer(resume, policy, optimizer)
    if team is not None and not team.leads:
        follow(policy, algorithm, optimizer)
        return
    place = Path(case["out"])

    def save(state):
        target = place / f"step-{state.step}"
        if not target.exists() and state.step in case.get("save", [spec.training.steps]):
            target.mkdir(parents=True)
            job = {"id": "job_0", "spec": spec.model_dump(mode="json"), "resolved": {"policy": {"sha256": None}}}
            write_checkpoint(target, policy, optimizer, state, job)

    state = read_trainer_state(resume) if resume is not None else None
    run = run_of(policy, spec, state=state, optimizer=optimizer, save=save, evaluate=case.get("evaluate", False))
    run.algorithm = algorithm
    run.go()
    rest = ("seconds", "tokens_per_s", "sampling_s", "grading_wait_s")
    numbers = {name: values for name, values in run.recorder.metric.items() if name not in rest}
    (place / "metrics.json").write_text(json.dumps(numbers))
    if team is not None:
        team.tell({"do": "end"})


def main():
    torch.set_num_threads(1)
    folder, plan = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    team = Team() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else None
    for case in plan:
        run_case(folder, case, team)
    if team is not None:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
