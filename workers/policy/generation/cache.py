"""A key-value cache with room for what is still to come: a step writes one column in place of copying all columns before it.

On a CPU under autocast it is kept in float32, and attention of single tokens runs in float32 (`single_token_attention`): the kernel
for one query per row is three times slower in bf16, while the products around it are more than twice as fast.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.cache_utils import DynamicCache, DynamicLayer

from workers.policy import ragged

NAME = "single_tokens"


class RoomyLayer(DynamicLayer):  # type: ignore[misc] # transformers tells no types
    """`keys` and `values` are the filled part of larger tensors."""

    def __init__(
        self, keys: Tensor, values: Tensor, owner: Int[Tensor, " rows"], room: int, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.filled = keys.shape[-2]
        self.key_room, self.value_room = (_with_room(part, owner, room, dtype) for part in (keys, values))
        self._show()

    def _show(self) -> None:
        self.keys, self.values = (part[:, :, : self.filled] for part in (self.key_room, self.value_room))

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new columns; all columns so far."""
        start, self.filled = self.filled, self.filled + key_states.shape[-2]
        self.key_room[:, :, start : self.filled] = key_states
        self.value_room[:, :, start : self.filled] = value_states
        self._show()
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, with their room."""
        self.key_room, self.value_room = self.key_room[indices], self.value_room[indices]
        self._show()


def _with_room(part: Tensor, owner: Tensor, room: int, dtype: torch.dtype) -> Tensor:
    _, heads, filled, size = part.shape
    roomy = part.new_zeros((len(owner), heads, filled + room, size), dtype=dtype)
    roomy[:, :, :filled] = part[owner]
    return roomy


def spread(cache: Any, owner: Int[Tensor, " rows"], room: int, *, wide: bool) -> Any:
    """The cache of some prompts for rows that each continue one of them by up to `room` tokens.

    `wide`: in float32 (`reads_wide`). Caches that keep anything but all keys and values (windows, states) spread themselves.
    """
    if is_plain(cache):
        with torch.no_grad():
            cache.layers = [
                RoomyLayer(layer.keys, layer.values, owner, room, torch.float32 if wide else layer.keys.dtype)
                for layer in cache.layers
            ]
    else:
        cache.batch_select_indices(owner)
    return cache


def is_plain(cache: Any) -> bool:
    """Whether it keeps all keys and values and nothing else."""
    return isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)


def reads_wide(model: Any, cache: Any, device: torch.device) -> bool:
    """Whether rows are continued by `single_token_attention`."""
    return device.type == "cpu" and torch.is_autocast_enabled("cpu") and is_plain(cache) and ragged.takes_ragged(model)


def single_token_attention(model: Any, wide: bool) -> contextlib.AbstractContextManager[None]:
    """The model with attention in float32 for rows of one token each, whose forward is told which columns each row sees."""
    return ragged.attention(model, NAME, _attend) if wide else contextlib.nullcontext()


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, scaling: float | None = None, **kwargs: Any
) -> tuple[Tensor, None]:
    rows, heads, _, size = query.shape
    with torch.autocast(query.device.type, enabled=False):
        # The queries that share a key head stand where the positions of a sequence would.
        grouped = query.float().reshape(rows, key.shape[1], heads // key.shape[1], size)
        out = scaled_dot_product_attention(grouped, key, value, attn_mask=kwargs["seen_columns"], scale=scaling)
    return out.reshape(rows, 1, heads, size).to(query.dtype), None
