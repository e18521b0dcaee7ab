"""TRPO (arXiv 1502.05477): the largest step along the natural gradient whose measured divergence stays inside the region.

No learning rate and no optimizer state: the direction solves F·x = g by conjugate gradients on exact Fisher-vector products, the
length comes from the region, and a line search on measured values has the last word. Works on all parameters or an adapter's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from service.domain.job import JobSpec
from service.domain.job_state import JobFailure
from service.domain.policy_gradient import TrpoConfig
from workers.algorithms.base import Collected, Environment, Policy
from workers.algorithms.on_policy import Surrogate, policy_loss, step_mean
from workers.algorithms.plain import PlainReward
from workers.losses.trust_region import (
    categorical_kl,
    conjugate_gradient,
    flat_of,
    hessian_product,
    line_search,
    natural_step,
)
from workers.types import Batch, LossOutput, PolicyBatch, UpdateReport


class Trpo(PlainReward):
    """The base class's update is replaced as a whole; collecting is that of all plain-reward algorithms."""

    full_precision = True
    """Second derivatives and a divergence of a hundredth of a nat do not survive bf16."""

    def __init__(self, spec: JobSpec) -> None:
        super().__init__(spec)
        assert isinstance(spec.algorithm, TrpoConfig)
        self.config = spec.algorithm
        self.baseline, self.baseline_decay = self.config.baseline, self.config.baseline_decay
        self.surrogate = Surrogate(kind="reinforce", mean_over=self.config.mean_over)

    def collect(self, environment: Environment) -> Collected:
        """One rollout for one step."""
        return Collected(self.rollout(environment))

    def loss(self, policy: Policy, batch: PolicyBatch) -> LossOutput:
        """−ρ·A: minus the surrogate objective."""
        return policy_loss(policy, batch, self.surrogate)

    def update(self, policy: Policy, batch: Batch, optimizer: torch.optim.Optimizer) -> UpdateReport:
        """One trust-region step. A step that the line search does not accept leaves every weight as it was."""
        assert isinstance(batch, PolicyBatch)
        parameters = list(policy.parameters())
        pieces = policy.microbatches(batch)
        # The fused attention kernels have no second derivative; the plain one does.
        with sdpa_kernel(SDPBackend.MATH):
            gradient, loss, metrics = self._gradient(policy, pieces, parameters)
            norm = float(gradient.norm())
            if not math.isfinite(norm):
                raise JobFailure("nonfinite_loss", "the gradient is not finite; check the data and the rewards")
            report = {"loss": loss, "grad_norm": norm, "kl_before": 0.0, **metrics}
            if norm == 0.0:
                return UpdateReport({**report, "kl": 0.0, "step_scale": 0.0, "line_search_tries": 0.0})
            product = self._fisher(policy, pieces, parameters)
            direction = conjugate_gradient(product, gradient, iterations=self.config.cg_iterations)
            step, _ = natural_step(direction, product(direction), self.config.max_kl)
            promised = float(gradient @ step)
            measure = self._measure(policy, pieces, parameters, step, -loss)
            report["kl_before"] = measure(0.0)[1]
            found = line_search(
                measure,
                expected_gain=promised,
                radius=self.config.max_kl,
                shrink=self.config.shrink,
                tries=self.config.line_search_steps,
            )
        report.update(
            kl=found.divergence,
            gain=found.gain,
            promised_gain=promised,
            step_scale=found.scale,
            line_search_tries=float(found.tries),
        )
        return UpdateReport(report)

    def _gradient(
        self, policy: Policy, pieces: Sequence[PolicyBatch], parameters: Sequence[Tensor]
    ) -> tuple[Tensor, float, dict[str, float]]:
        """∇ of the surrogate objective (to be raised), the loss (its negative), and means of the metrics."""
        total = torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device)
        loss = 0.0
        sums: dict[str, tuple[float, float]] = {}
        for piece in pieces:
            output = self.loss(policy, piece)
            loss += float(output.loss.detach())
            found = torch.autograd.grad(output.loss, parameters, allow_unused=True)
            total -= flat_of(found, parameters)
            for name, (value, count) in output.metrics.items():
                before = sums.get(name, (0.0, 0.0))
                sums[name] = (before[0] + value, before[1] + count)
        return total, loss, {name: value / count for name, (value, count) in sums.items() if count}

    def _fisher(
        self, policy: Policy, pieces: Sequence[PolicyBatch], parameters: Sequence[Tensor]
    ) -> Callable[[Tensor], Tensor]:
        """v ↦ F·v + damping·v, piece by piece: the Hessian of the mean divergence from the policy as it is."""

        def product(vector: Tensor) -> Tensor:
            total = self.config.damping * vector
            for piece in pieces:
                flat = policy.distributions(piece)
                per_token = categorical_kl(flat.logits, flat.logits)
                mean = step_mean(per_token, flat.sequence, flat.lengths, piece, self.config.mean_over)
                total = total + hessian_product(mean, parameters, vector)
            return total

        return product

    def _measure(
        self, policy: Policy, pieces: Sequence[PolicyBatch], parameters: Sequence[Tensor], step: Tensor, start: float
    ) -> Callable[[float], tuple[float, float]]:
        """scale ↦ (gain of the surrogate, mean divergence from where the step began), with the parameters moved there."""
        origin = [p.detach().clone() for p in parameters]
        parts = torch.split(step, [p.numel() for p in parameters])
        with torch.no_grad():
            old = [policy.distributions(piece).logits for piece in pieces]

        def measure(scale: float) -> tuple[float, float]:
            gain, divergence = -start, 0.0
            with torch.no_grad():
                for parameter, begin, part in zip(parameters, origin, parts, strict=True):
                    parameter.copy_(begin if scale == 0.0 else begin + scale * part.view_as(begin))
                for piece, before in zip(pieces, old, strict=True):
                    gain -= float(self.loss(policy, piece).loss)
                    flat = policy.distributions(piece)
                    per_token = categorical_kl(before, flat.logits)
                    divergence += float(step_mean(per_token, flat.sequence, flat.lengths, piece, self.config.mean_over))
            return gain, divergence

        return measure
