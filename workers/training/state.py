"""Where a job is: everything beside weights and moments that makes the next step what it would have been."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from service.domain.scoring import History
from workers.training.watch import Watch
from workers.types import Batch, PolicyBatch, PreferenceBatch, SupervisedBatch

NULL_WINDOW = 20


@dataclass(slots=True)
class TrainerState:
    """`step` counts finished optimizer steps. `batch` with `uses_left` is the buffered rollout of inner epochs."""

    step: int = 0
    evaluated_step: int | None = None
    cursors: dict[str, int] = field(default_factory=dict)
    history: History = field(default_factory=History)
    watch: Watch = field(default_factory=Watch)
    null_shares: deque[float] = field(default_factory=lambda: deque(maxlen=NULL_WINDOW))
    evaluation: dict[str, float] = field(default_factory=dict)
    round: int = 0
    """Finished rounds. How the running one began: held-out plain rewards by prompt, the evaluation's metrics, and, where it may
    have to be undone, weights and moments (saved beside this as safetensors)."""
    held_out: dict[str, float] = field(default_factory=dict)
    round_evaluation: dict[str, float] = field(default_factory=dict)
    round_start: dict[str, Tensor] = field(default_factory=dict, compare=False, repr=False)
    best_held_out: dict[str, float] = field(default_factory=dict)
    """Held-out plain rewards by prompt (or −loss by row) at the best evaluation so far, where a worse one stops the job."""
    reference: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Summed log-probabilities of (chosen, rejected) under the policy that the job started from, by row."""
    reward_average: tuple[float, float] = (0.0, 0.0)
    """Decayed sum of steps' mean rewards, and the sum of its weights."""
    skipped_in_a_row: int = 0
    """Steps up to now that were skipped one after the other."""
    batch: Batch | None = None
    uses: int = 0
    """For how many optimizer steps `batch` serves, and how many of them are left."""
    uses_left: int = 0
    collected: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As JSON values; Python writes and reads floats without loss."""
        return {
            "step": self.step,
            "evaluated_step": self.evaluated_step,
            "cursors": self.cursors,
            "history": self.history.to_json(),
            "watch": self.watch.to_json(),
            "null_shares": list(self.null_shares),
            "evaluation": self.evaluation,
            "round": self.round,
            "held_out": self.held_out,
            "best_held_out": self.best_held_out,
            "round_evaluation": self.round_evaluation,
            "reward_average": list(self.reward_average),
            "reference": {key: list(value) for key, value in self.reference.items()},
            "skipped_in_a_row": self.skipped_in_a_row,
            "batch": batch_to_json(self.batch) if self.uses_left else None,
            "uses": self.uses,
            "uses_left": self.uses_left,
            "collected": self.collected if self.uses_left else {},
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TrainerState:
        """The state again."""
        return cls(
            step=data["step"],
            evaluated_step=data["evaluated_step"],
            cursors=dict(data["cursors"]),
            history=History.from_json(data["history"]),
            watch=Watch.from_json(data["watch"]),
            null_shares=deque(data["null_shares"], maxlen=NULL_WINDOW),
            evaluation=dict(data["evaluation"]),
            round=data["round"],
            held_out=dict(data["held_out"]),
            best_held_out=dict(data.get("best_held_out", {})),  # checkpoints of the first releases have none
            round_evaluation=dict(data["round_evaluation"]),
            reward_average=(data["reward_average"][0], data["reward_average"][1]),
            reference={key: (chosen, rejected) for key, (chosen, rejected) in data["reference"].items()},
            skipped_in_a_row=data.get("skipped_in_a_row", 0),  # a checkpoint of an earlier release does not say
            batch=batch_from_json(data["batch"]),
            uses=data["uses"],
            uses_left=data["uses_left"],
            collected=dict(data["collected"]),
        )


_KINDS: dict[str, type[Any]] = {
    "policy": PolicyBatch,
    "supervised": SupervisedBatch,
    "preference": PreferenceBatch,
}


def batch_to_json(batch: Batch | None) -> dict[str, Any] | None:
    """A batch as JSON values."""
    if batch is None:
        return None
    kind = next(name for name, known in _KINDS.items() if isinstance(batch, known))
    return {"kind": kind, **asdict(batch)}


def batch_from_json(data: dict[str, Any] | None) -> Batch | None:
    """The batch again."""
    if data is None:
        return None
    fields = {name: value for name, value in data.items() if name != "kind"}
    batch: Batch = _KINDS[data["kind"]](**fields)
    return batch
