"""A language model in two parts, the transformer and its output layer, where log-probabilities can be taken from what lies between.

Then the logits of a step never exist all at once (`losses.output`). Models that do more to their logits than is known here (another
scale, an adapted layer) are found out by trying, and say their logits as ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from workers.losses.logprobs import token_logprobs
from workers.losses.output import chosen_logprobs

TRIED = "output_layer_is_plain"


@dataclass(frozen=True, slots=True)
class OutputLayer:
    """`backbone` gives the states that a plain linear `layer` reads; `cap` bends the logits, as Gemma's."""

    backbone: Any
    layer: torch.nn.Linear
    cap: float | None

    def chosen(
        self,
        states: Float[Tensor, "rows hidden"],
        tokens: Int[Tensor, " rows"],
        *,
        temperature: float = 1.0,
        entropy: bool = False,
    ) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"] | None]:
        """log π of the tokens at the temperature and, if asked for, the entropy, in float32, with gradient."""
        return chosen_logprobs(
            states,
            self.layer.weight,
            tokens,
            bias=self.layer.bias,
            cap=self.cap,
            temperature=temperature,
            entropy=entropy,
        )


def output_layer(model: Any) -> OutputLayer | None:
    """The two parts of a model, PEFT's wrapper around it or not; null where it has to be asked as a whole. Tried once per model."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    backbone = getattr(inner, getattr(inner, "base_model_prefix", ""), None)
    layer = inner.get_output_embeddings()
    if backbone is None or type(layer) is not torch.nn.Linear:
        return None
    found = OutputLayer(backbone, layer, getattr(inner.config.get_text_config(), "final_logit_softcapping", None))
    if not hasattr(inner, TRIED):
        setattr(inner, TRIED, _try(inner, found))
    return found if getattr(inner, TRIED) else None


def _try(model: Any, parts: OutputLayer) -> bool:
    device = parts.layer.weight.device
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.tensor([[k % vocabulary for k in (3, 5, 7, 11, 13, 4)]], device=device)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        try:
            states = parts.backbone(input_ids=ids, use_cache=False).last_hidden_state[0]
            found, _ = parts.chosen(states, ids[0])
        except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, NotImplementedError):
            return False
        wanted = token_logprobs(model(input_ids=ids, use_cache=False).logits[0], ids[0])
    return bool(torch.allclose(found.float(), wanted, rtol=1e-4, atol=1e-4))
