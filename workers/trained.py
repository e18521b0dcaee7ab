"""The model that a job trains, with its optimizer and where a checkpoint left them: built alike by one process or by each of several."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from service.domain.algorithm import packs
from service.domain.job import JobSpec
from workers.algorithms import ALGORITHMS
from workers.algorithms.base import Algorithm
from workers.policy.heads import add_value_model, load_reward_policy
from workers.policy.loading import ModelFiles, load_policy
from workers.policy.supervised import keeps_packed_apart
from workers.training.checkpoint import restore_models, restore_optimizer
from workers.training.optim import build_optimizer
from workers.training.team import Team
from workers.training.together import Crew, TeamPolicy, follow


@dataclass(frozen=True, slots=True)
class Plan:
    """What is loaded: small enough to be told to another process of this machine. The files have been verified."""

    spec: JobSpec
    files: ModelFiles
    resume: Path | None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        chain: list[dict[str, str]] = []
        files: ModelFiles | None = self.files
        while files is not None:
            chain.append({"id": files.id, "folder": str(files.folder)})
            files = files.base
        resume = str(self.resume) if self.resume is not None else None
        return {"spec": self.spec.model_dump(mode="json"), "models": chain, "resume": resume}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Plan:
        """The plan again."""
        files: ModelFiles | None = None
        for model in reversed(data["models"]):
            files = ModelFiles(model["id"], Path(model["folder"]), [], files)
        assert files is not None
        resume = Path(data["resume"]) if data["resume"] is not None else None
        return cls(JobSpec.model_validate(data["spec"]), files, resume)


@dataclass(frozen=True, slots=True)
class Trained:
    """What the loop moves."""

    policy: Any
    optimizer: torch.optim.Optimizer | None


def load_trained(plan: Plan, algorithm: Algorithm, team: Team | None = None) -> Trained:
    """Load, restore and, with a team, split over its processes."""
    policy = _policy(plan, algorithm)
    if plan.resume is not None:
        restore_models(plan.resume, policy)
    if team is not None:
        policy = TeamPolicy(policy, team)
        algorithm.crew = Crew(policy)
    training = plan.spec.training
    optimizer = build_optimizer(policy, training, algorithm.value_learning_rate) if algorithm.trains else None
    if plan.resume is not None:
        restore_optimizer(plan.resume, policy, optimizer)
    return Trained(policy, optimizer)


def _policy(plan: Plan, algorithm: Algorithm) -> Any:
    """The model, with its value model if the algorithm has one."""
    spec = plan.spec
    common: dict[str, Any] = {
        "adapter": spec.adapter,
        "precision": "fp32" if algorithm.full_precision else spec.training.precision,
        "budget": spec.training.microbatch_tokens,
        "seed": spec.training.seed,
        "resume": plan.resume,
    }
    if algorithm.model_kind == "reward":
        return load_reward_policy(plan.files, **common)
    policy = load_policy(plan.files, reference=algorithm.needs_reference, **common)
    if algorithm.value_kind is not None:
        given = {name: value for name, value in common.items() if name != "resume"}
        add_value_model(policy, algorithm.value_kind, plan.files, **given)
    if packs(spec.algorithm):
        policy.packs = keeps_packed_apart(policy.model, policy.pad_id, policy.device)
    return policy


def follow_leader(team: Team) -> None:
    """A rank that is not the first: build what the leader builds, then do what it says until it says `end`."""
    said = team.hear()
    if said["do"] == "end":
        return
    plan = Plan.from_json(said)
    algorithm = ALGORITHMS[plan.spec.algorithm.type](plan.spec)
    trained = load_trained(plan, algorithm, team)
    assert trained.optimizer is not None
    follow(trained.policy, algorithm, trained.optimizer)
