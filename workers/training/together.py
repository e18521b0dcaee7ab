"""What a team's leader and its followers do: sample, step, gather.

A step's denominators are those of the whole step, as ever, so that every process takes a share of the sequences, its
gradient is summed with the others', and the sum is the gradient of one process up to the order of summation. Rows are sampled
with the random numbers that they have in one process. Nothing else is random: dropout is off in all jobs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from service.domain.job_state import JobFailure
from workers.algorithms.base import Algorithm, Alone
from workers.policy.generation.sampler import Sample, SamplingOptions
from workers.training.optim import optimizer_tensors
from workers.training.sharding import Split, whole
from workers.training.state import batch_from_json, batch_to_json
from workers.training.team import Stopped, Team
from workers.types import Batch, LossOutput, PolicyBatch, PreferenceBatch

FORWARDS = frozenset(
    ("logprobs", "values", "distributions", "reference_logprobs", "supervised_logprobs", "pair_logprobs",
     "reference_pair_logprobs", "pair_rewards", "save", "value", "model")
)  # fmt: skip
"""What needs the whole weights where it is asked for outside a step."""


class TeamPolicy:
    """A policy that is split over a team's processes, in the place of the plain one that it wraps."""

    def __init__(self, policy: Any, team: Team) -> None:
        self.team, self.inner = team, policy
        self.split = Split(policy, team.mesh)
        self.stepping = False
        self._trained: list[tuple[str, nn.Parameter]] = list(policy.named_parameters())

    def __getattr__(self, name: str) -> Any:
        if name in FORWARDS and not self.stepping and not self.split.is_whole:
            self.team.tell({"do": "whole"})
            self.split.to_whole()
        return getattr(self.inner, name)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """What is trained, split."""
        return iter(self._trained)

    def parameters(self) -> Iterator[nn.Parameter]:
        """The same without names."""
        return (parameter for _, parameter in self._trained)

    def moments(self, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
        """The optimizer's, gathered."""
        self.team.tell({"do": "moments"})
        return optimizer_tensors(optimizer, self)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        options: SamplingOptions,
        on_group: Callable[[int, list[Sample]], None],
        check: Callable[[], None],
    ) -> None:
        """Every process samples its share of the rows. Groups that this one has whole are handed on at once, others at the end."""
        if not self.split.is_whole:
            self.team.tell({"do": "whole"})
            self.split.to_whole()
        told = {**asdict(options), "eos_ids": list(options.eos_ids)}
        self.team.tell({"do": "sample", "prompts": [list(prompt) for prompt in prompts], "options": told})
        self.team.stop_check()
        own: dict[int, list[Sample]] = {}

        def keep(k: int, samples: list[Sample]) -> None:
            if len(samples) == options.group_size:
                on_group(k, samples)
            else:
                own[k] = samples

        try:
            self.inner.sample(prompts, options, keep, check, (0, self.team.size))
        except BaseException:
            self.team.stop()
            self.team.all([])
            raise
        for share in self.team.all([])[1:]:
            for k, samples in share:
                own.setdefault(k, []).extend(_sample(sample) for sample in samples)
        for k in sorted(own):
            on_group(k, own[k])

    def sample_share(self, prompts: list[list[int]], options: SamplingOptions) -> None:
        """A follower's part of `sample`."""
        found: list[tuple[int, list[dict[str, Any]]]] = []

        def keep(k: int, samples: list[Sample]) -> None:
            found.append((k, [asdict(sample) for sample in samples]))

        with contextlib.suppress(Stopped):
            self.inner.sample(prompts, options, keep, self.team.stop_check(), (self.team.rank, self.team.size))
        self.team.all(sorted(found, key=lambda pair: pair[0]))


def _sample(data: dict[str, Any]) -> Sample:
    top = [[(token, value) for token, value in row] for row in data["top"]] if data["top"] is not None else None
    return Sample(data["tokens"], data["logprobs"], data["finish_reason"], top)


class Crew(Alone):
    """A step that the processes of a team take together."""

    def __init__(self, policy: TeamPolicy) -> None:
        self.policy, self.team = policy, policy.team

    @contextlib.contextmanager
    def step(self, batch: Batch, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """The leader tells the others; all of them split the weights."""
        if self.team.leads:
            rates = [group["lr"] for group in optimizer.param_groups]
            self.team.tell({"do": "update", "batch": batch_to_json(batch), "rates": rates})
        self.policy.split.to_split()
        self.policy.stepping = True
        try:
            yield
        finally:
            self.policy.stepping = False
        # A step that fails does so on every process, behind its last collective.

    def pieces(self, policy: Any, batch: Batch) -> Iterable[tuple[Any, float]]:
        """This rank's. Whoever has fewer than another runs something that counts for nothing beside it: all gather together."""
        rows = share_of(batch, self.team.rank, self.team.size)
        own = list(policy.microbatches(batch.select(rows))) if rows else []
        most = max(self.team.all(len(own)))
        yield from ((piece, float(self.team.size)) for piece in own)
        if most > len(own):
            blank = policy.microbatches(batch.select([0]))[0]
            yield from ((blank, 0.0) for _ in range(most - len(own)))
        self.policy.split.finish_step()

    def run(self, loss: Callable[[], LossOutput]) -> LossOutput:
        """Inside the root of what is split."""
        kept: list[LossOutput] = []

        def compute() -> torch.Tensor:
            kept.append(loss())
            return kept[0].loss

        found = self.policy.split.shell(compute)
        return replace(kept[0], loss=found)

    def together(
        self, total: float, sums: dict[str, tuple[float, float]]
    ) -> tuple[float, dict[str, tuple[float, float]]]:
        """In the order of ranks, so that all have the same numbers."""
        merged: dict[str, tuple[float, float]] = {}
        whole_loss = 0.0
        for loss, own in self.team.all([total, sums]):
            whole_loss += loss
            for name, (value, count) in own.items():
                before = merged.get(name, (0.0, 0.0))
                merged[name] = (before[0] + value, before[1] + count)
        return whole_loss, merged

    def clip(self, parameters: Sequence[nn.Parameter], limit: float) -> float:
        """By the norm over all processes' parts."""
        norm = whole(torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return float(norm)


def share_of(batch: Batch, rank: int, size: int) -> list[int]:
    """The rows (or pairs) of a rank: neighbours, so that most prompts are run by one of them, with about the same number of tokens."""
    if isinstance(batch, PolicyBatch):
        costs = [len(tokens) for tokens in batch.tokens_B_T]
    elif isinstance(batch, PreferenceBatch):
        sides = zip(batch.prompts_P_T, batch.chosen_P_T, batch.rejected_P_T, strict=True)
        costs = [len(prompt) + len(chosen) + len(rejected) for prompt, chosen, rejected in sides]
    else:
        costs = [len(prompt) + len(tokens) for prompt, tokens in zip(batch.prompts_B_T, batch.tokens_B_T, strict=True)]
    ends = list(accumulate(costs))
    middles = [end - cost / 2 for end, cost in zip(ends, costs, strict=True)]
    return [row for row, middle in enumerate(middles) if int(middle * size / ends[-1]) == rank]


def follow(policy: TeamPolicy, algorithm: Algorithm, optimizer: torch.optim.Optimizer) -> None:
    """Do what the leader says until it says `end`."""
    while (said := policy.team.hear())["do"] != "end":
        if said["do"] == "whole":
            policy.split.to_whole()
        elif said["do"] == "sample":
            policy.sample_share(said["prompts"], SamplingOptions(**said["options"]))
        elif said["do"] == "moments":
            optimizer_tensors(optimizer, policy)
        elif said["do"] == "update":
            for group, rate in zip(optimizer.param_groups, said["rates"], strict=True):
                group["lr"] = rate
            batch = batch_from_json(said["batch"])
            assert batch is not None
            with contextlib.suppress(JobFailure):  # the leader has the same, and decides
                algorithm.update(policy, batch, optimizer)  # type: ignore[arg-type]
