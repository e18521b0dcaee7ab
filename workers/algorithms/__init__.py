"""One file per algorithm, on one loop. `ALGORITHMS` is the other end of `service.domain.algorithm.ALGORITHM_CONFIGS`."""

from __future__ import annotations

from workers.algorithms.base import Algorithm
from workers.algorithms.dpo import Dpo
from workers.algorithms.evaluate import Evaluate
from workers.algorithms.grape import Grape
from workers.algorithms.ppo import Ppo
from workers.algorithms.reinforce import Reinforce
from workers.algorithms.rejection_sampling import RejectionSampling
from workers.algorithms.reward_model import RewardModel
from workers.algorithms.sft import Sft
from workers.algorithms.trpo import Trpo

ALGORITHMS: dict[str, type[Algorithm]] = {
    "sft": Sft,
    "rejection_sampling": RejectionSampling,
    "dpo": Dpo,
    "reward_model": RewardModel,
    "reinforce": Reinforce,
    "trpo": Trpo,
    "ppo": Ppo,
    "grape": Grape,
    "grpo": Grape,
    "evaluate": Evaluate,
}
"""`grpo` is `grape` with uniform weighting; its config says so."""
