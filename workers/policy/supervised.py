"""Log-probabilities of demonstrations, several of them in one row where the model keeps them apart (packing).

A packed row holds examples one after the other. Each has positions of its own, from 0, and sees nothing but itself: transformers
reads that from the positions when no attention mask is given, for every kernel, and combines it with a model's own masks
(sliding windows). So what is learned is what rows of their own would teach, without computing on padding. No row is longer than
the longest example of its piece: packing never makes attention dearer than padding would.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from workers.losses.logprobs import token_logprobs
from workers.policy import ragged
from workers.policy.output import output_layer
from workers.types import FlatLogprobs, SupervisedBatch

SHORT = 512
"""Up to this length attention costs little beside the rest, so that shorter examples may share a piece with longer ones."""


def packed_rows(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Which examples share a row of at most `width` tokens: the longest first, each into the fullest row that has room for it."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for k in sorted(range(len(lengths)), key=lambda k: (-lengths[k], k)):
        place = bisect_left(room, (lengths[k], -1))
        if place == len(room):
            rows.append([])
            left, row = max(width, lengths[k]), len(rows) - 1
        else:
            left, row = room.pop(place)
        rows[row].append(k)
        insort(room, (left - lengths[k], row))
    return rows


def supervised_pieces(batch: SupervisedBatch, budget: int, *, packed: bool) -> Iterator[SupervisedBatch]:
    """Cut demonstrations, sorted by length, so that no piece has rows of more than `budget` tokens in all, padding included.

    Examples that are much shorter than a piece's longest go into the next piece, with shorter rows.
    """
    lengths = lengths_of(batch)
    order = sorted(range(len(lengths)), key=lambda k: (-lengths[k], k))
    while order:
        width = lengths[order[0]]
        most = max(1, budget // width)
        if packed:
            rows = packed_rows([lengths[k] for k in order], width)
            # The longest stands first. A row that only short examples share belongs to a later piece.
            rows = [row for row in rows if width <= SHORT or 2 * lengths[order[row[0]]] > width]
            taken = sorted(order[place] for row in rows[:most] for place in row)
        else:
            taken = order[:most]
        yield batch.select(taken)
        gone = set(taken)
        order = [k for k in order if k not in gone]


def lengths_of(batch: SupervisedBatch) -> list[int]:
    """Tokens that each demonstration is run with: all but its last, after which nothing is predicted."""
    return [len(p) + len(t) - 1 for p, t in zip(batch.prompts_B_T, batch.tokens_B_T, strict=True)]


def supervised_logprobs(
    model: Any, batch: SupervisedBatch, pad: int, device: torch.device, *, packed: bool
) -> FlatLogprobs:
    """log π of every trained completion token of demonstrations, flat, sequence after sequence."""
    lengths = lengths_of(batch)
    if packed and ragged.takes_ragged(model):
        return _as_one_row(model, batch, device)
    rows = packed_rows(lengths, max(lengths)) if packed else [[k] for k in range(len(lengths))]
    width = max(sum(lengths[k] for k in row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    places = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    begins: dict[int, tuple[int, int]] = {}
    for r, row in enumerate(rows):
        column = 0
        for k in row:
            whole = [*batch.prompts_B_T[k], *batch.tokens_B_T[k]]
            begins[k] = (r, column)
            ids[r, column : column + lengths[k]] = torch.tensor(whole[:-1], dtype=torch.long)
            places[r, column : column + lengths[k]] = torch.arange(lengths[k])
            mask[r, column : column + lengths[k]] = 1
            column += lengths[k]
        places[r, column:] = torch.arange(width - column)  # padding is an example of its own, which nobody reads
    layer = output_layer(model)
    out = (model if layer is None else layer.backbone)(
        input_ids=ids.to(device),
        attention_mask=None if packed else mask.to(device),
        position_ids=places.to(device),
        use_cache=False,
    )
    at_row, at_column, tokens, owner = _trained(batch, begins, device)
    counts = [batch.trained_tokens(k) for k in range(len(lengths))]
    if layer is None:
        return FlatLogprobs(token_logprobs(out.logits[at_row, at_column], tokens), owner, counts)
    return FlatLogprobs(layer.chosen(out.last_hidden_state[at_row, at_column], tokens)[0], owner, counts)


def _as_one_row(model: Any, batch: SupervisedBatch, device: torch.device) -> FlatLogprobs:
    """Without any padding, and with logits where a trained token is predicted alone."""
    layer = output_layer(model)
    wholes = [[*p, *t] for p, t in zip(batch.prompts_B_T, batch.tokens_B_T, strict=True)]
    row = ragged.layout([], [whole[:-1] for whole in wholes], [-1] * len(wholes), device)
    _, places, tokens, owner = _trained(batch, {k: (0, start) for k, start in enumerate(row.starts)}, device)
    if layer is None:
        logprobs = token_logprobs(ragged.run(model, row, logits_to_keep=places).logits[0], tokens)
    else:
        logprobs, _ = layer.chosen(ragged.run(layer.backbone, row).last_hidden_state[0, places], tokens)
    return FlatLogprobs(logprobs, owner, [batch.trained_tokens(k) for k in range(len(wholes))])


def _trained(
    batch: SupervisedBatch, begins: dict[int, tuple[int, int]], device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each trained token: the row and the column where it is predicted, the token, and its sequence."""
    found: list[tuple[int, int, int, int]] = []
    for k, tokens in enumerate(batch.tokens_B_T):
        row, column = begins[k]
        first = column + len(batch.prompts_B_T[k]) - 1
        found.extend((row, first + t, tokens[t], k) for t in batch.trained_places(k))
    columns = torch.tensor(found, dtype=torch.long).reshape(-1, 4).to(device).unbind(1)
    return columns[0], columns[1], columns[2], columns[3]


def keeps_packed_apart(model: Any, pad: int, device: torch.device) -> bool:
    """Whether examples in one row say what they say alone. Models with a state that runs through the row do not."""
    vocabulary = int(model.config.get_text_config().vocab_size)
    first, second = ([(7 * k + shift) % vocabulary for k in range(size)] for size, shift in ((6, 3), (5, 4)))
    ends = [first[-1:], second[-3:]]
    together = SupervisedBatch([first[:-1], second[:-3]], ends, [1.0, 1.0], 4.0)
    with torch.no_grad():
        alone = supervised_logprobs(model, together, pad, device, packed=False).logprobs
        ids = torch.tensor([first[:-1] + second[:-1]], device=device)
        places = torch.tensor([[*range(5), *range(4)]], device=device)
        logits = model(input_ids=ids, position_ids=places, use_cache=False).logits[0, [4, 6, 7, 8]]
        packed = token_logprobs(logits, torch.tensor([*ends[0], *ends[1]], device=device))
    scale = 1 + float(alone.abs().max())
    return bool(torch.isfinite(packed).all()) and float((packed - alone).abs().max()) < 2e-5 * scale
