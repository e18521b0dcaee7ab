"""Writing a checkpoint's folder and reading it back; publishing it is the caller's.

The folder is the model (or the adapter) as `from_pretrained` reads it; `state/` has what resumes the job: moments, random
state, a reference that has moved, the start of a round that may be undone, trainer state, the job's spec with the rubric
versions it pinned. `manifest.json` lists every other file, last.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file

from service.domain.checkpoint import MANIFEST, CheckpointFile, Manifest, file_entry
from workers.policy.causal import CausalPolicy
from workers.policy.value_head import load_value_tensors, value_tensors
from workers.training.optim import load_optimizer, save_optimizer
from workers.training.state import TrainerState

REFERENCE, ROUND = "reference.safetensors", "round.safetensors"


def write_checkpoint(
    folder: Path,
    policy: CausalPolicy,
    optimizer: torch.optim.Optimizer | None,
    state: TrainerState,
    job: dict[str, Any],
) -> list[CheckpointFile]:
    """Write everything into the empty `folder`; the files, the manifest included."""
    policy.save(folder)
    inner = folder / "state"
    inner.mkdir()
    if optimizer is not None:
        save_optimizer(optimizer, policy, inner / "optimizer.safetensors")
    value = getattr(policy, "value", None)
    if value is not None:
        save_file(value_tensors(value), inner / "value.safetensors")
    reference = getattr(policy, "moved_reference", {})
    if reference:
        save_file(reference, inner / REFERENCE)
    if state.round_start:
        save_file(state.round_start, inner / ROUND)
    save_file({"torch": torch.get_rng_state()}, inner / "random.safetensors")
    _write_json(inner / "trainer.json", state.to_json())
    _write_json(inner / "job.json", job)
    files = [file_entry(folder, path) for path in sorted(folder.rglob("*")) if path.is_file()]
    kind: Literal["full", "adapter"] = policy.kind
    manifest = Manifest(
        job=job["id"], step=state.step, kind=kind, base_model_sha256=job["resolved"]["policy"]["sha256"], files=files
    )
    (folder / MANIFEST).write_bytes(manifest.to_bytes())
    return [*files, file_entry(folder, folder / MANIFEST)]


def read_trainer_state(folder: Path) -> TrainerState:
    """Where the job was."""
    state = TrainerState.from_json(json.loads((folder / "state" / "trainer.json").read_text()))
    if (folder / "state" / ROUND).exists():
        state.round_start = load_file(folder / "state" / ROUND)
    return state


def restore(folder: Path, policy: CausalPolicy, optimizer: torch.optim.Optimizer | None) -> None:
    """Moments, a reference that has moved, random state; the weights were loaded by `load_policy(resume=…)`."""
    restore_models(folder, policy)
    restore_optimizer(folder, policy, optimizer)


def restore_models(folder: Path, policy: CausalPolicy) -> None:
    """What a policy has beside its weights, before it is split over processes."""
    if (folder / "state" / REFERENCE).exists():
        policy.put_reference(load_file(folder / "state" / REFERENCE))
    value = getattr(policy, "value", None)
    if value is not None:
        load_value_tensors(value, load_file(folder / "state" / "value.safetensors"))


def restore_optimizer(folder: Path, policy: CausalPolicy, optimizer: torch.optim.Optimizer | None) -> None:
    """Moments, whatever number of processes wrote them, and random state."""
    if optimizer is not None:
        load_optimizer(optimizer, policy, folder / "state" / "optimizer.safetensors")
    torch.set_rng_state(load_file(folder / "state" / "random.safetensors")["torch"])


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, sort_keys=True, ensure_ascii=False) + "\n")
