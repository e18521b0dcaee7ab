"""Our own sampler: one prefill per prompt for its whole group, exact log-probabilities, finished rows dropped soon.

Each row's random numbers are drawn for all rows at every position, so what one row samples depends neither on when its
neighbours end nor on how the cache is compacted; they come from a seed, never from a global generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workers.policy.forward import prefill
from workers.policy.generation.cache import reads_wide, single_token_attention, spread

MAX_ROWS = 1024
"""Rows that are decoded together; more prompts are taken in turns."""
DROP_AT = 7 / 8
"""Rows that have ended are dropped once no more than this share of the held ones goes on: dropping copies the cache."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Token ids of one completion, its end token included, and the log-probability of each under the sampling policy."""

    tokens: list[int]
    logprobs: list[float]
    finish_reason: str
    top: list[list[tuple[int, float]]] | None = None
    """At each token the likeliest ids with their log-probabilities at temperature 1, if they were asked for."""


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """Temperature 0 is greedy; log-probabilities are then those at temperature 1.

    With `top_p` or `top_k` they are those of the distribution that was sampled: cut and renormalised.
    """

    group_size: int
    temperature: float
    max_tokens: int
    eos_ids: Sequence[int]
    pad_id: int
    seed: int
    top_p: float = 1.0
    top_k: int | None = None
    top: int = 0
    """How many of the likeliest tokens to keep at each position."""
    limits: Sequence[int] | None = None
    """A limit of tokens for each completion, prompt after prompt, where `max_tokens` is not the limit of all."""


def cut(scaled: Float[Tensor, "batch vocab"], top_p: float, top_k: int | None) -> Float[Tensor, "batch vocab"]:
    """−∞ for all but the `top_k` likeliest tokens, and of these for all but the likeliest that together hold `top_p`.

    The token that crosses `top_p` stays, so at least one does; of equally likely ones those of lower id come first.
    """
    if top_k is None and top_p >= 1:
        return scaled
    ordered, place = scaled.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        ordered = ordered.masked_fill(torch.arange(ordered.shape[-1], device=ordered.device) >= top_k, -torch.inf)
    before = ordered.softmax(-1).cumsum(-1).roll(1, dims=-1)
    before[..., 0] = 0.0
    kept = ordered.masked_fill(before >= top_p, -torch.inf) if top_p < 1 else ordered
    return torch.full_like(scaled, -torch.inf).scatter(-1, place, kept)


def choose(
    logits: Float[Tensor, "batch vocab"],
    uniform: Float[Tensor, " batch"],
    temperature: float,
    top_p: float = 1.0,
    top_k: int | None = None,
) -> tuple[Int[Tensor, " batch"], Float[Tensor, " batch"]]:
    """One token per row by inverting the distribution function at `uniform`, and its log-probability.

    Exponentials are float32, their sums float64: what is sampled and what is stored agree to 1e-6.
    """
    scaled = logits.float()
    if temperature > 0:
        scaled = cut(scaled / temperature, top_p, top_k)
    peak = scaled.amax(dim=-1, keepdim=True)
    weights = (scaled - peak).exp()
    if temperature > 0:
        cumulative = weights.cumsum(-1, dtype=torch.float64)
        total = cumulative[:, -1:]
        # `right`: the first token whose cumulative exceeds the target, so a token of probability 0 is never taken.
        token = torch.searchsorted(cumulative, uniform.double().unsqueeze(-1) * total, right=True)
        token = token.clamp(max=logits.shape[-1] - 1)
    else:
        total = weights.sum(-1, keepdim=True, dtype=torch.float64)
        token = scaled.argmax(-1, keepdim=True)
    logprob = (scaled.gather(-1, token) - peak).double() - total.log()
    return token.squeeze(-1), logprob.squeeze(-1)


def sample_groups(
    model: Any,
    prompts: Sequence[Sequence[int]],
    options: SamplingOptions,
    on_group: Callable[[int, list[Sample]], None],
    *,
    device: torch.device,
    check: Callable[[], None] = lambda: None,
    share: tuple[int, int] = (0, 1),
) -> None:
    """Sample `group_size` completions of each prompt; `on_group(k, samples)` as soon as prompt k's group is whole.

    `check` is called at every position and may raise to interrupt. `share` (k, n): only the k-th of n parts of the rows, with
    the random numbers that they have among all; then a group may come in parts, each with its samples in order.
    """
    at_once = max(1, MAX_ROWS // options.group_size)
    part, parts = share
    for start in range(0, len(prompts), at_once):
        chunk = prompts[start : start + at_once]
        rows = len(chunk) * options.group_size
        own = range(part * rows // parts, (part + 1) * rows // parts)
        if not own:
            continue
        with torch.no_grad():  # in inference mode autocast would convert the weights anew for every token
            _Decoding(model, chunk, options, on_group, start=start, device=device, check=check, own=own).run()


class _Decoding:
    """The state of one chunk: which rows are alive, and what each has so far."""

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Sequence[int]],
        options: SamplingOptions,
        on_group: Callable[[int, list[Sample]], None],
        *,
        start: int,
        device: torch.device,
        check: Callable[[], None],
        own: range,
    ) -> None:
        self.model, self.options, self.device, self.start = model, options, device, start
        self.on_group, self.check = on_group, check
        self.size = options.group_size
        self.rows = len(prompts) * self.size
        self.own = own
        self.first = own[0] // self.size  # no prompt before it, and none after the last row's, is run
        self.prompts = prompts[self.first : own[-1] // self.size + 1]
        self.tokens = torch.zeros((self.rows, options.max_tokens), dtype=torch.long, device=device)
        self.logprobs = torch.zeros((self.rows, options.max_tokens), dtype=torch.float32, device=device)
        self.top: list[list[list[tuple[int, float]]]] = [[] for _ in range(self.rows)] if options.top else []
        self.samples: list[Sample | None] = [None] * self.rows
        self.missing = [0] * len(prompts)
        for row in own:
            self.missing[row // self.size] += 1
        limits = options.limits[start * self.size :][: self.rows] if options.limits is not None else None
        self.limits = torch.tensor(limits, device=device) if limits is not None else None
        self.eos = torch.tensor(list(options.eos_ids), device=device)
        self.generator = torch.Generator().manual_seed((options.seed + start) % (1 << 63))

    def run(self) -> None:
        """Decode until every row has ended."""
        cache, logits, prompt_mask = prefill(self.model, self.prompts, self.options.pad_id, self.device)
        held = torch.tensor(list(self.own), device=self.device)
        owner = held // self.size - self.first
        wide = reads_wide(self.model, cache, self.device)
        cache = spread(cache, owner, self.options.max_tokens, wide=wide)
        logits, mask = logits[owner], prompt_mask[owner]
        lengths = mask.sum(-1, keepdim=True)
        going = torch.arange(len(held), device=self.device)  # which of the held rows have not ended
        options = self.options
        for position in range(options.max_tokens):
            self.check()
            uniform = torch.rand(self.rows, generator=self.generator, dtype=torch.float64).to(self.device)
            alive = held[going]
            logits = logits if len(going) == len(held) else logits[going]
            token, logprob = choose(logits, uniform[alive], options.temperature, options.top_p, options.top_k)
            self.tokens[alive, position] = token
            self.logprobs[alive, position] = logprob.float()
            if self.top:
                self._keep_top(alive, logits)
            stopped = torch.isin(token, self.eos)
            if position + 1 == options.max_tokens:
                self._finish(alive, position + 1, stopped)
                return
            ended = stopped if self.limits is None else stopped | (self.limits[alive] <= position + 1)
            if bool(ended.any()):
                self._finish(alive[ended], position + 1, stopped[ended])
                going, token = going[~ended], token[~ended]
                if not len(going):
                    return
                if len(going) <= DROP_AT * len(held):
                    held, mask, lengths = held[going], mask[going], lengths[going]
                    cache.batch_select_indices(going)
                    going = torch.arange(len(held), device=self.device)
            mask = torch.cat([mask, mask.new_ones((len(held), 1))], dim=1)
            given = token if len(going) == len(held) else token.new_zeros(len(held)).index_put((going,), token)
            columns = mask.bool()[:, None, None]
            with single_token_attention(self.model, wide):
                out = self.model(
                    input_ids=given.unsqueeze(1),
                    attention_mask=columns if wide else mask,
                    position_ids=lengths + position,
                    past_key_values=cache,
                    use_cache=True,
                    **({"seen_columns": columns} if wide else {}),
                )
            logits = out.logits[:, -1]

    def _keep_top(self, rows: Tensor, logits: Float[Tensor, "batch vocab"]) -> None:
        best = torch.log_softmax(logits.double(), dim=-1).topk(min(self.options.top, logits.shape[-1]))
        for row, ids, values in zip(rows.tolist(), best.indices.tolist(), best.values.tolist(), strict=True):
            self.top[row].append(list(zip(ids, values, strict=True)))

    def _finish(self, rows: Tensor, length: int, stopped: Tensor) -> None:
        for row, stop in zip(rows.tolist(), stopped.tolist(), strict=True):
            self.samples[row] = Sample(
                self.tokens[row, :length].tolist(),
                self.logprobs[row, :length].tolist(),
                "stop" if stop else "length",
                self.top[row] if self.top else None,
            )
            prompt = row // self.size
            self.missing[prompt] -= 1
            if not self.missing[prompt]:
                group = self.samples[prompt * self.size : (prompt + 1) * self.size]
                self.on_group(self.start + prompt, [sample for sample in group if sample is not None])
