"""Log-probabilities of completions, with the prompt of a group run once, with gradient.

A group's prompt goes through the model into its key-value cache; the cache is spread over the group's completions, which
follow as their own rows. Tokens processed: P + ΣR instead of G·(P + R), and the gradient reaches the prompt through the
cache, so it is the gradient of the plain forward (a test holds the two together).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workers.losses.logprobs import token_entropy, token_logprobs
from workers.types import FlatLogprobs, PolicyBatch, PreferenceBatch, SupervisedBatch


def pad_left(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows ending in the same column, and the mask of real tokens. Masks come from lengths: pad may equal EOS."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for k, row in enumerate(rows):
        ids[k, width - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[k, width - len(row) :] = 1
    return ids.to(device), mask.to(device)


def pad_right(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows starting in the same column, and the mask of real tokens."""
    width = max((len(row) for row in rows), default=0)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for k, row in enumerate(rows):
        ids[k, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[k, : len(row)] = 1
    return ids.to(device), mask.to(device)


def positions(mask: Int[Tensor, "batch time"]) -> Int[Tensor, "batch time"]:
    """0, 1, 2 … over the real tokens of each row; 0 on padding to the left."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def prefill(model: Any, prompts: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Any, Tensor, Tensor]:
    """Run prompts into a fresh cache: the cache, the logits after each prompt, the prompts' mask."""
    ids, mask = pad_left(prompts, pad, device)
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True, logits_to_keep=1)
    return out.past_key_values, out.logits[:, -1], mask


def policy_logprobs(
    model: Any, batch: PolicyBatch, pad: int, device: torch.device, *, entropy: bool = False
) -> FlatLogprobs:
    """log π (and its entropy) at every completion token, at the batch's temperature, flat, sequence after sequence."""
    return completion_logprobs(
        model,
        batch.prompts_P_T,
        batch.tokens_B_T,
        batch.prompt_of_B,
        pad=pad,
        device=device,
        temperature=batch.temperature,
        entropy=entropy,
    )


def pair_logprobs(model: Any, batch: PreferenceBatch, pad: int, device: torch.device) -> FlatLogprobs:
    """log π of every token of chosen and rejected completions, flat, in the order of `completions_B_T`."""
    return completion_logprobs(
        model, batch.prompts_P_T, batch.completions_B_T, batch.prompt_of_B, pad=pad, device=device
    )


def completion_logprobs(
    model: Any,
    prompts_P_T: Sequence[Sequence[int]],
    tokens_B_T: Sequence[Sequence[int]],
    prompt_of_B: Sequence[int],
    *,
    pad: int,
    device: torch.device,
    temperature: float = 1.0,
    entropy: bool = False,
) -> FlatLogprobs:
    """log π of every completion token, each prompt run once for all of its completions."""
    owner = torch.tensor(prompt_of_B, dtype=torch.long, device=device)
    cache, first_logits, prompt_mask = prefill(model, prompts_P_T, pad, device)
    tokens, mask = pad_right(tokens_B_T, pad, device)
    first_logits = first_logits[owner]
    tables = [token_logprobs(first_logits, tokens[:, 0], temperature).unsqueeze(1)]
    if entropy:
        tables.append(token_entropy(first_logits, temperature).unsqueeze(1))
    if tokens.shape[1] > 1:
        cache.batch_select_indices(owner)
        given, given_mask = tokens[:, :-1], mask[:, :-1]
        before = prompt_mask[owner]
        out = model(
            input_ids=given,
            attention_mask=torch.cat([before, given_mask], dim=1),
            position_ids=before.sum(-1, keepdim=True) + torch.arange(given.shape[1], device=device),
            past_key_values=cache,
            use_cache=True,
        )
        wanted = mask[:, 1:].bool()
        logits = out.logits[wanted]
        rest = [token_logprobs(logits, tokens[:, 1:][wanted], temperature)]
        if entropy:
            rest.append(token_entropy(logits, temperature))
        for k, values in enumerate(rest):
            empty: Float[Tensor, "batch time"] = values.new_zeros(wanted.shape)
            tables[k] = torch.cat([tables[k], empty.masked_scatter(wanted, values)], dim=1)
    return _flat(tables, mask, [len(row) for row in tokens_B_T], device)


def supervised_logprobs(model: Any, batch: SupervisedBatch, pad: int, device: torch.device) -> FlatLogprobs:
    """log π of every completion token of demonstrations, flat."""
    rows = [[*prompt, *tokens] for prompt, tokens in zip(batch.prompts_B_T, batch.tokens_B_T, strict=True)]
    ids, mask = pad_right(rows, pad, device)
    starts = torch.tensor([len(prompt) for prompt in batch.prompts_B_T], device=device)
    out = model(
        input_ids=ids[:, :-1], attention_mask=mask[:, :-1], position_ids=positions(mask[:, :-1]), use_cache=False
    )
    column = torch.arange(ids.shape[1], device=device)
    wanted = ((column >= starts.unsqueeze(1)) & mask.bool())[:, 1:]
    logprobs = token_logprobs(out.logits[wanted], ids[:, 1:][wanted])
    lengths = [len(row) for row in batch.tokens_B_T]
    return FlatLogprobs(logprobs, _owners(lengths, device), lengths)


def _owners(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device)


def _flat(tables: Sequence[Tensor], mask: Tensor, lengths: list[int], device: torch.device) -> FlatLogprobs:
    logprobs, *entropy = (table[mask.bool()] for table in tables)
    return FlatLogprobs(logprobs, _owners(lengths, device), lengths, entropy[0] if entropy else None)


def policy_pieces(batch: PolicyBatch, budget: int) -> Iterator[PolicyBatch]:
    """Cut a batch so that no piece, padded, has more than `budget` tokens (or is a single completion).

    Prompts with completions of similar length share a piece; a prompt with too many completions is run once per piece.
    """
    rows_of: dict[int, list[int]] = {}
    for row, prompt in enumerate(batch.prompt_of_B):
        rows_of.setdefault(prompt, []).append(row)
    units = [
        unit
        for prompt, rows in rows_of.items()
        for unit in _split(batch, rows, budget - len(batch.prompts_P_T[prompt]))
    ]
    units.sort(key=lambda rows: -max(len(batch.tokens_B_T[row]) for row in rows))
    piece: list[int] = []
    for rows in units:
        if piece and _padded(batch, [*piece, *rows]) > budget:
            yield batch.select(sorted(piece))
            piece = []
        piece.extend(rows)
    if piece:
        yield batch.select(sorted(piece))


def _split(batch: PolicyBatch, rows: list[int], room: int) -> Iterator[list[int]]:
    part: list[int] = []
    longest = 0
    for row in rows:
        longest = max(longest, len(batch.tokens_B_T[row]))
        if part and longest * (len(part) + 1) > room:
            yield part
            part, longest = [], len(batch.tokens_B_T[row])
        part.append(row)
    if part:
        yield part


def _padded(batch: PolicyBatch, rows: list[int]) -> int:
    prompts = {batch.prompt_of_B[row] for row in rows}
    widest = max(len(batch.prompts_P_T[p]) for p in prompts)
    return len(prompts) * widest + len(rows) * max(len(batch.tokens_B_T[row]) for row in rows)


def supervised_pieces(batch: SupervisedBatch, budget: int) -> Iterator[SupervisedBatch]:
    """Cut demonstrations, sorted by length, so that no piece, padded, has more than `budget` tokens."""
    lengths = [len(p) + len(t) for p, t in zip(batch.prompts_B_T, batch.tokens_B_T, strict=True)]
    piece: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda k: (-lengths[k], k)):
        if piece and lengths[piece[0]] * (len(piece) + 1) > budget:
            yield batch.select(piece)
            piece = []
        piece.append(row)
    if piece:
        yield batch.select(piece)


def preference_pieces(batch: PreferenceBatch, budget: int) -> Iterator[PreferenceBatch]:
    """Cut pairs, sorted by length and never torn apart, so that no piece, padded, has more than `budget` tokens."""
    longest = [max(len(c), len(r)) for c, r in zip(batch.chosen_P_T, batch.rejected_P_T, strict=True)]
    piece: list[int] = []
    widest = 0
    for pair in sorted(range(len(longest)), key=lambda p: (-longest[p], p)):
        wider = max(widest, len(batch.prompts_P_T[pair]))
        if piece and (wider + 2 * longest[piece[0]]) * (len(piece) + 1) > budget:
            yield batch.select(piece)
            piece, wider = [], len(batch.prompts_P_T[pair])
        piece.append(pair)
        widest = wider
    if piece:
        yield batch.select(piece)
