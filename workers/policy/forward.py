"""Log-probabilities of completions, with the prompt of a group run once, with gradient.

Tokens processed: P + ΣR instead of G·(P + R), as one row without padding (`ragged`). A model that takes no such row is run padded: a
group's prompt goes into its key-value cache, which is spread over the group's completions. Either way the gradient reaches the
prompt, so it is the gradient of the plain forward (a test holds the three together).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workers.losses.logprobs import token_entropy, token_logprobs, wide
from workers.policy import ragged
from workers.policy.output import OutputLayer, output_layer
from workers.types import FlatDistributions, FlatLogprobs, PolicyBatch, PreferenceBatch


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


@dataclass(frozen=True, slots=True)
class Chunk:
    """What the model says where some completion tokens are chosen; `place[k]` is the token's index in the flat order.

    It has logits, or the states that the output layer reads, or both.
    """

    logits: Float[Tensor, "some vocab"] | None
    tokens: Int[Tensor, " some"]
    place: Int[Tensor, " some"]
    states: Float[Tensor, "some hidden"] | None


def completion_chunks(
    model: Any,
    prompts_P_T: Sequence[Sequence[int]],
    tokens_B_T: Sequence[Sequence[int]],
    prompt_of_B: Sequence[int],
    *,
    pad: int,
    device: torch.device,
    states: bool = False,
) -> list[Chunk]:
    """Each prompt run once for all of its completions: one chunk, or one for the first tokens and one for all others.

    `model` is a language model, or a transformer without its output layer, which gives states alone.
    """
    if ragged.takes_ragged(model):
        return [_whole_chunk(model, prompts_P_T, tokens_B_T, prompt_of_B, device=device, states=states)]
    owner = torch.tensor(prompt_of_B, dtype=torch.long, device=device)
    ids, prompt_mask = pad_left(prompts_P_T, pad, device)
    asked: dict[str, Any] = {"use_cache": True, "output_hidden_states": states}
    prompt = model(input_ids=ids, attention_mask=prompt_mask, position_ids=positions(prompt_mask), **asked)
    tokens, mask = pad_right(tokens_B_T, pad, device)
    lengths = mask.sum(-1)
    starts = lengths.cumsum(0) - lengths
    chunks = [_chunk(prompt, (owner, -1), tokens[:, 0], starts, states=states)]
    if tokens.shape[1] > 1:
        cache = prompt.past_key_values
        cache.batch_select_indices(owner)
        given, given_mask = tokens[:, :-1], mask[:, :-1]
        before = prompt_mask[owner]
        columns = torch.arange(given.shape[1], device=device)
        out = model(
            input_ids=given,
            attention_mask=torch.cat([before, given_mask], dim=1),
            position_ids=before.sum(-1, keepdim=True) + columns,
            past_key_values=cache,
            **asked,
        )
        wanted = mask[:, 1:].bool()
        places = (starts.unsqueeze(1) + 1 + columns)[wanted]
        chunks.append(_chunk(out, wanted, tokens[:, 1:][wanted], places, states=states))
    return chunks


def _chunk(out: Any, where: Any, tokens: Tensor, place: Tensor, *, states: bool) -> Chunk:
    """The rows `where` of what a model has said; one without an output layer has said its last states."""
    if not hasattr(out, "logits"):
        return Chunk(None, tokens, place, out.last_hidden_state[where])
    return Chunk(out.logits[where], tokens, place, out.hidden_states[-1][where] if states else None)


def _whole_chunk(
    model: Any,
    prompts_P_T: Sequence[Sequence[int]],
    tokens_B_T: Sequence[Sequence[int]],
    prompt_of_B: Sequence[int],
    *,
    device: torch.device,
    states: bool = False,
) -> Chunk:
    """All completion tokens in order: what chooses a completion's first token stands at the end of its prompt."""
    row = ragged.layout(prompts_P_T, [tokens[:-1] for tokens in tokens_B_T], prompt_of_B, device)
    lengths = [len(tokens) for tokens in tokens_B_T]
    places = torch.tensor(ragged.places_before(row, lengths, prompt_of_B), device=device)
    tokens = torch.tensor([token for tokens in tokens_B_T for token in tokens], device=device)
    in_place = torch.arange(len(places), device=device)
    if not hasattr(model, "get_output_embeddings") or model.get_output_embeddings() is None:
        return Chunk(None, tokens, in_place, ragged.run(model, row).last_hidden_state[0, places])
    out = ragged.run(model, row, logits_to_keep=places, output_hidden_states=states)
    return Chunk(out.logits[0], tokens, in_place, out.hidden_states[-1][0, places] if states else None)


def in_order(chunks: Sequence[Chunk], read: Callable[[Chunk], Tensor]) -> Tensor:
    """What `read` makes of each chunk, flat, sequence after sequence."""
    if len(chunks) == 1:
        return read(chunks[0])
    order = torch.argsort(torch.cat([chunk.place for chunk in chunks]))
    return torch.cat([read(chunk) for chunk in chunks])[order]


def policy_logprobs(
    model: Any,
    batch: PolicyBatch,
    pad: int,
    device: torch.device,
    *,
    entropy: bool = False,
    value: Callable[[Tensor], Tensor] | None = None,
) -> FlatLogprobs:
    """log π (its entropy, a value of the state) at every completion token, at the batch's temperature, flat."""
    layer = output_layer(model)
    chunks = completion_chunks(
        layer.backbone if layer is not None else model,
        batch.prompts_P_T,
        batch.tokens_B_T,
        batch.prompt_of_B,
        pad=pad,
        device=device,
        states=value is not None,
    )
    lengths = [len(row) for row in batch.tokens_B_T]
    said = in_order(chunks, lambda c: _said(layer, c, batch.temperature, entropy=entropy))
    return FlatLogprobs(
        said[:, 0],
        _owners(lengths, device),
        lengths,
        said[:, 1] if entropy else None,
        in_order(chunks, lambda c: value(c.states)) if value is not None else None,  # type: ignore[arg-type]
    )


def _said(
    layer: OutputLayer | None, chunk: Chunk, temperature: float = 1.0, *, entropy: bool = False
) -> Float[Tensor, "some one_or_two"]:
    """log π of a chunk's tokens, and the entropy beside it if it is asked for."""
    if layer is not None:
        assert chunk.states is not None
        found = layer.chosen(chunk.states, chunk.tokens, temperature=temperature, entropy=entropy)
        return torch.stack([part for part in found if part is not None], dim=-1)
    assert chunk.logits is not None
    logprobs = token_logprobs(chunk.logits, chunk.tokens, temperature)
    if not entropy:
        return logprobs.unsqueeze(-1)
    return torch.stack([logprobs, token_entropy(chunk.logits, temperature)], dim=-1)


def policy_distributions(model: Any, batch: PolicyBatch, pad: int, device: torch.device) -> FlatDistributions:
    """The logits at every completion token, divided by the batch's temperature, flat."""
    chunks = completion_chunks(model, batch.prompts_P_T, batch.tokens_B_T, batch.prompt_of_B, pad=pad, device=device)
    lengths = [len(row) for row in batch.tokens_B_T]
    logits = in_order(chunks, lambda c: wide(c.logits) / batch.temperature)  # type: ignore[arg-type]
    return FlatDistributions(logits, _owners(lengths, device), lengths)


def pair_logprobs(model: Any, batch: PreferenceBatch, pad: int, device: torch.device) -> FlatLogprobs:
    """log π of every token of chosen and rejected completions, flat, in the order of `completions_B_T`."""
    completions = batch.completions_B_T
    layer = output_layer(model)
    chunks = completion_chunks(
        layer.backbone if layer is not None else model,
        batch.prompts_P_T,
        completions,
        batch.prompt_of_B,
        pad=pad,
        device=device,
    )
    lengths = [len(row) for row in completions]
    return FlatLogprobs(in_order(chunks, lambda c: _said(layer, c))[:, 0], _owners(lengths, device), lengths)


def _owners(lengths: Sequence[int], device: torch.device) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(device)


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
