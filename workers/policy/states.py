"""Hidden states of completions, each prompt run once for all of its completions, with gradient: what scalar heads read.

The state *before* token t is what the model knows when it chooses t (a value V_t); the state *after* the last token has seen the
whole completion (a reward).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workers.policy import ragged
from workers.policy.forward import pad_left, pad_right, positions


@dataclass(frozen=True, slots=True)
class CompletionStates:
    """`before` is flat, one row per completion token, sequence after sequence; `last` has one row per completion."""

    before: Float[Tensor, "time hidden"]
    last: Float[Tensor, "batch hidden"]
    lengths: list[int]


def completion_states(
    backbone: Any,
    prompts_P_T: Sequence[Sequence[int]],
    tokens_B_T: Sequence[Sequence[int]],
    prompt_of_B: Sequence[int],
    *,
    pad: int,
    device: torch.device,
) -> CompletionStates:
    """Run a transformer without its head over prompts and completions.

    Masks and last positions come from lengths, never from token ids, so padding may equal any token and stand on any side.
    """
    if ragged.takes_ragged(backbone):
        return _of_row(backbone, prompts_P_T, tokens_B_T, prompt_of_B, device)
    owner = torch.tensor(prompt_of_B, dtype=torch.long, device=device)
    ids, prompt_mask = pad_left(prompts_P_T, pad, device)
    prompt = backbone(input_ids=ids, attention_mask=prompt_mask, position_ids=positions(prompt_mask), use_cache=True)
    cache = prompt.past_key_values
    cache.batch_select_indices(owner)
    tokens, mask = pad_right(tokens_B_T, pad, device)
    before = prompt_mask[owner]
    hidden = backbone(
        input_ids=tokens,
        attention_mask=torch.cat([before, mask], dim=1),
        position_ids=before.sum(-1, keepdim=True) + torch.arange(tokens.shape[1], device=device),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    lengths = [len(row) for row in tokens_B_T]
    shifted = torch.cat([prompt.last_hidden_state[owner, -1:], hidden[:, :-1]], dim=1)
    ends = torch.tensor(lengths, device=device) - 1
    return CompletionStates(shifted[mask.bool()], hidden[torch.arange(len(lengths), device=device), ends], lengths)


def _of_row(
    backbone: Any,
    prompts_P_T: Sequence[Sequence[int]],
    tokens_B_T: Sequence[Sequence[int]],
    prompt_of_B: Sequence[int],
    device: torch.device,
) -> CompletionStates:
    """The same from one row without padding."""
    row = ragged.layout(prompts_P_T, tokens_B_T, prompt_of_B, device)
    hidden = ragged.run(backbone, row).last_hidden_state[0]
    lengths = [len(tokens) for tokens in tokens_B_T]
    before = ragged.places_before(row, lengths, prompt_of_B)
    last = [start + length - 1 for start, length in zip(row.starts, lengths, strict=True)]
    return CompletionStates(
        hidden[torch.tensor(before, device=device)], hidden[torch.tensor(last, device=device)], lengths
    )
