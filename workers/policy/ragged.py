"""Many sequences as one row without padding: every layer sees real tokens alone, and attention keeps each sequence to itself.

transformers lets an attention function of our own be named for a forward. It gets the queries, keys and values of the whole row and a
layout that says which tokens belong together: a prompt to itself, a completion to its prompt and itself. So a prompt runs once for
all its completions, in the same forward, and nothing is spent on padding but inside attention, where sequences of similar length
share a call. Models that do not go through that function are found out by trying (`takes_ragged`) and run padded.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workers.policy.attention import attend

NAME = "ragged"
TRIED = "takes_ragged_rows"
SIMILAR = 0.5
"""The shortest sequence of a bucket has at least this share of the longest one's tokens."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """Sequences that are attended together: `own[s, t]` are places in the row, `kept` those of them that are there, in order.

    Padding repeats a place that is there. `owner` has each sequence's prompt as its place among the row's `Prompts`, of whose columns
    `width` are looked at; `mask` is over those and `own`. Without prompts there is neither, and attention is causal.
    """

    own: Int[Tensor, "sequences columns"]
    kept: Int[Tensor, " real"]
    owner: Int[Tensor, " sequences"] | None = None
    width: int = 0
    mask: Bool[Tensor, "sequences one columns keys"] | None = None


@dataclass(frozen=True, slots=True)
class Prompts:
    """All prompts of a row, in its order, as one padded block; `kept` are the entries that are there."""

    places: Int[Tensor, "prompts columns"]
    kept: Int[Tensor, " real"]


@dataclass(frozen=True, slots=True)
class Ragged:
    """A row: token ids and positions, the buckets in the order of the row, and where each given sequence starts in it."""

    ids: Int[Tensor, "one row"]
    positions: Int[Tensor, "one row"]
    buckets: list[Bucket]
    prompts: Prompts | None
    prompt_ends: list[int]
    starts: list[int]


def layout(
    prompts_P_T: Sequence[Sequence[int]],
    tokens_B_T: Sequence[Sequence[int]],
    prompt_of_B: Sequence[int],
    device: torch.device,
) -> Ragged:
    """Prompts first, then the sequences, longest first; a sequence without a prompt has −1 for it. None may be empty."""
    ids: list[int] = []
    positions: list[int] = []
    buckets: list[Bucket] = []

    def place(tokens: Sequence[int], first: int) -> int:
        start = len(ids)
        ids.extend(tokens)
        positions.extend(range(first, first + len(tokens)))
        return start

    prompt_starts = [0] * len(prompts_P_T)
    order: list[int] = []
    for rows in _similar([len(tokens) for tokens in prompts_P_T]):
        for p in rows:
            prompt_starts[p] = place(prompts_P_T[p], 0)
        order.extend(rows)
        buckets.append(_bucket([(prompt_starts[p], len(prompts_P_T[p])) for p in rows], None, device))
    ranks = {p: k for k, p in enumerate(order)}
    prompts = _prompts([(prompt_starts[p], len(prompts_P_T[p])) for p in order], device) if order else None
    starts = [0] * len(tokens_B_T)
    for rows in _similar([len(tokens) for tokens in tokens_B_T]):
        spans, before = [], []
        for b in rows:
            prompt = prompt_of_B[b]
            first = len(prompts_P_T[prompt]) if prompt >= 0 else 0
            starts[b] = place(tokens_B_T[b], first)
            spans.append((starts[b], len(tokens_B_T[b])))
            before.append((ranks[prompt] if prompt >= 0 else 0, first))
        buckets.append(_bucket(spans, before if prompts_P_T else None, device))
    return Ragged(
        torch.tensor([ids], device=device),
        torch.tensor([positions], device=device),
        buckets,
        prompts,
        [start + len(tokens) - 1 for start, tokens in zip(prompt_starts, prompts_P_T, strict=True)],
        starts,
    )


def places_before(row: Ragged, lengths_B: Sequence[int], prompt_of_B: Sequence[int]) -> list[int]:
    """Where each token of each sequence is chosen: at the end of its prompt, then at the token before it."""
    return [
        place
        for length, start, prompt in zip(lengths_B, row.starts, prompt_of_B, strict=True)
        for place in (row.prompt_ends[prompt], *range(start, start + length - 1))
    ]


def _similar(lengths: Sequence[int]) -> Iterator[list[int]]:
    """The sequences that have tokens, longest first, cut where they get much shorter."""
    rows: list[int] = []
    for row in sorted((k for k, length in enumerate(lengths) if length), key=lambda k: (-lengths[k], k)):
        if rows and lengths[row] < SIMILAR * lengths[rows[0]]:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


def _places(spans: Sequence[tuple[int, int]], device: torch.device) -> tuple[Tensor, Tensor]:
    starts = torch.tensor([start for start, _ in spans], device=device).unsqueeze(1)
    lengths = torch.tensor([length for _, length in spans], device=device).unsqueeze(1)
    columns = torch.arange(max(length for _, length in spans), device=device)
    return starts + torch.minimum(columns, (lengths - 1).clamp(min=0)), columns < lengths


def _kept(real: Bool[Tensor, "sequences columns"]) -> Int[Tensor, " real"]:
    return real.reshape(-1).nonzero().squeeze(1)


def _prompts(spans: Sequence[tuple[int, int]], device: torch.device) -> Prompts:
    places, real = _places(spans, device)
    return Prompts(places, _kept(real))


def _bucket(spans: Sequence[tuple[int, int]], before: Sequence[tuple[int, int]] | None, device: torch.device) -> Bucket:
    own, real = _places(spans, device)
    if before is None:
        return Bucket(own, _kept(real))
    owner = torch.tensor([prompt for prompt, _ in before], device=device)
    lengths = torch.tensor([length for _, length in before], device=device).unsqueeze(1)
    most = max(length for _, length in before)
    known = torch.arange(most, device=device) < lengths
    columns = own.shape[1]
    causal = torch.ones((columns, columns), dtype=torch.bool, device=device).tril()
    same = bool(known.all())  # one mask for all
    known = known[:1] if same else known
    mask = torch.cat([known.unsqueeze(1).expand(-1, columns, -1), causal.expand(len(known), -1, -1)], dim=-1)
    return Bucket(own, _kept(real), owner, most, mask.unsqueeze(1))


class _Spread(torch.autograd.Function):
    """(1, heads, row, size) as one (sequences, columns, heads, size) per bucket and, if asked for, one for the prompts.

    The plain gather's gradient would be added up place by place. Here each place of the row stands in one bucket, and gradients at
    padding are zero (nothing real looks at it), so the buckets' gradients in the order of the row are the row's.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, row: Ragged, with_prompts: bool) -> tuple[Tensor, ...]:
        ctx.row, ctx.with_prompts = row, with_prompts
        heads = states[0].transpose(0, 1)
        blocks = [bucket.own for bucket in row.buckets]
        if with_prompts and row.prompts is not None:
            blocks.append(row.prompts.places)
        return tuple(heads.index_select(0, b.reshape(-1)).view(*b.shape, *heads.shape[1:]) for b in blocks)

    @staticmethod
    def backward(ctx: Any, *told: Tensor) -> tuple[Tensor | None, ...]:
        row: Ragged = ctx.row
        found = torch.cat([_rows(of, b.kept) for of, b in zip(told, row.buckets, strict=False)])
        if ctx.with_prompts and row.prompts is not None:
            of_prompts = _rows(told[-1], row.prompts.kept)
            found = torch.cat([found[: len(of_prompts)] + of_prompts, found[len(of_prompts) :]])
        return found.transpose(0, 1).unsqueeze(0), None, None


def _spread(states: Tensor, row: Ragged, with_prompts: bool) -> tuple[Tensor, ...]:
    found: tuple[Tensor, ...] = _Spread.apply(states, row, with_prompts)  # type: ignore[no-untyped-call]
    return found


def _rows(block: Tensor, kept: Tensor) -> Tensor:
    """(sequences, columns, …) without its padding, flat."""
    flat = block.reshape(-1, *block.shape[2:])
    return flat if len(flat) == len(kept) else flat.index_select(0, kept)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, scaling: float | None = None, **kwargs: Any
) -> tuple[Float[Tensor, "one row heads size"], None]:
    """The attention of a whole row; the order of the buckets is the order of the row."""
    row: Ragged = kwargs["ragged_row"]
    queries, keys, values = _spread(query, row, False), _spread(key, row, True), _spread(value, row, True)
    found = []
    for k, bucket in enumerate(row.buckets):
        out = attend(
            queries[k].transpose(1, 2),
            _seen(keys[k], keys[-1], bucket),
            _seen(values[k], values[-1], bucket),
            mask=bucket.mask,
            scaling=scaling,
        )
        found.append(_rows(out.transpose(1, 2), bucket.kept))
    return torch.cat(found).unsqueeze(0), None


def _seen(own: Tensor, prompts: Tensor, bucket: Bucket) -> Tensor:
    """What a bucket's sequences look at: their prompts and themselves, as (sequences, key heads, keys, size)."""
    if bucket.owner is not None:
        own = torch.cat([prompts[:, : bucket.width].index_select(0, bucket.owner), own], dim=1)
    return own.transpose(1, 2)


def run(model: Any, row: Ragged, **options: Any) -> Any:
    """The model's own forward on the row."""
    with attention(model, NAME, _attend):
        return model(
            input_ids=row.ids,
            attention_mask=row.ids.new_ones((1, 1, 1, 1), dtype=torch.bool),  # 4D: taken as it is, and not looked at
            position_ids=row.positions,
            use_cache=False,
            ragged_row=row,
            **options,
        )


@contextlib.contextmanager
def attention(model: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """The model with another attention function, as long as this lasts."""
    from transformers import AttentionInterface

    if name not in AttentionInterface():
        AttentionInterface.register(name, function)
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def takes_ragged(model: Any) -> bool:
    """Whether the model gives for a row what it gives for its sequences one by one; tried once per model, on a few tokens.

    Models whose layers look at a window, cap their scores or mix tokens outside attention do not.
    """
    if not hasattr(model, TRIED):
        setattr(model, TRIED, _try(model))
    return bool(getattr(model, TRIED))


def _try(model: Any) -> bool:
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    capped = any(getattr(config, name, None) is not None for name in ("attn_logit_softcapping", "attention_chunk_size"))
    if capped or set(kinds) != {"full_attention"} or _window(config):
        return False
    device = next(model.parameters()).device
    ids = [k % config.vocab_size for k in (3, 5, 7, 11, 13, 4, 6, 8, 9)]
    row = layout([ids[:3]], [ids[3:7], ids[7:]], [0, 0], device)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        try:
            found = _first(run(model, row))[0]
        except (TypeError, ValueError, KeyError, RuntimeError, NotImplementedError):
            return False
        for start, tokens in zip(row.starts, (ids[3:7], ids[7:]), strict=True):
            whole = torch.tensor([[*ids[:3], *tokens]], device=device)
            wanted = _first(model(input_ids=whole, use_cache=False))[0, 3:]
            if not torch.allclose(found[start : start + len(tokens)], wanted, rtol=1e-3, atol=1e-4):
                return False
    return True


def _window(config: Any) -> bool:
    return getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)


def _first(out: Any) -> Tensor:
    found: Tensor = out.logits if hasattr(out, "logits") else out.last_hidden_state
    return found
