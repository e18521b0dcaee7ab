"""A policy whose weights, gradients and moments are spread over a team's processes (FSDP2, `fully_shard`).

Its models exist in two forms. *Split*: every process holds its part of each tensor, layers are gathered one after the other while a
piece runs forward and backward, and gradients are summed over the processes on their way back. *Whole*: plain models with
all weights on every process, for what runs without gradient: sampling, evaluation, references, values, checkpoints. The
whole form is filled from the split one when it is wanted and emptied before the next step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from workers.policy import ragged
from workers.policy.output import output_layer
from workers.policy.value_head import SeparateValue, SharedValue


class Shell(nn.Module):
    """The root of everything that is split. Its forward is whatever is computed with the models inside it."""

    def __init__(self, models: Iterable[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, compute: Callable[[], Tensor]) -> Tensor:
        """`compute()`, with the weights that lie in no layer (embedding, head) gathered around it."""
        return compute()


@dataclass(slots=True)
class Part:
    """One model in both forms, and where the policy looks for it."""

    holder: Any
    name: str
    split: nn.Module
    whole: nn.Module

    @classmethod
    def of(cls, holder: Any, name: str) -> Part:
        """A model that is about to be split."""
        model: nn.Module = getattr(holder, name)
        _try_once(model)
        empty: dict[int, Any] = {
            id(p): nn.Parameter(p.new_empty(0), requires_grad=p.requires_grad) for p in model.parameters()
        }
        return cls(holder, name, model, copy.deepcopy(model, empty))

    def fill(self) -> None:
        """Gather the whole form and show it to the policy; every process has to."""
        filled = dict(self.whole.named_parameters())
        for name, parameter in self.split.named_parameters():
            filled[name].data = whole(parameter.detach())
        setattr(self.holder, self.name, self.whole)

    def empty(self) -> None:
        """Drop the whole form and show the split one."""
        for parameter in self.whole.parameters():
            parameter.data = parameter.data.new_empty(0)
        setattr(self.holder, self.name, self.split)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that is split over processes, which all have to ask; of any other, itself."""
    gather = getattr(tensor, "full_tensor", None)
    found: Tensor = gather() if gather is not None else tensor
    return found


def split_like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """This process's part of a tensor that every process has, split as the parameter is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor):
        return tensor.to(parameter.device)
    placed: Tensor = distribute_tensor(
        tensor.to(parameter.device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )
    return placed


def _try_once(model: nn.Module) -> None:
    """What a model's forward allows is found out before it is split: the answers are kept on the module, in both forms."""
    for part in _asked(model):
        ragged.takes_ragged(part)
    if hasattr(model, "config") and _inner(model).get_output_embeddings() is not None:
        output_layer(model)


def _inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _asked(model: Any) -> list[Any]:
    """What forwards are made of: the transformer, and the language model around it."""
    if not hasattr(model, "config"):
        return []
    inner = _inner(model)
    backbone = getattr(inner, getattr(inner, "base_model_prefix", ""), None)
    speaks = inner.get_output_embeddings() is not None
    return [part for part in (model if speaks else None, backbone) if part is not None]


class Split:
    """All models of one policy."""

    def __init__(self, policy: Any, mesh: DeviceMesh) -> None:
        self.policy = policy
        value = getattr(policy, "value", None)
        holders = [(policy, "model")]
        if getattr(policy, "reference_model", None) is not None:
            holders.append((policy, "reference_model"))
        if isinstance(value, SeparateValue):
            holders.append((value.model, "model"))
        elif isinstance(value, SharedValue):
            holders.append((value, "head"))
        self.parts = [Part.of(*place) for place in holders]
        self.shell = Shell(part.split for part in self.parts)
        for layer in list(_layers(self.shell)):
            fully_shard(layer, mesh=mesh)
        fully_shard(self.shell, mesh=mesh)
        # Padded forwards may differ between processes in how often they run a layer: then nothing is gathered in between.
        self._keep(not all(ragged.takes_ragged(m) for part in self.parts for m in _asked(part.split)))
        self.is_whole = False

    def _keep(self, gathered: bool) -> None:
        assert isinstance(self.shell, FSDPModule)
        self.kept = gathered
        if gathered:
            self.shell.set_reshard_after_forward(False)
            self.shell.set_reshard_after_backward(False)

    def to_whole(self) -> None:
        """The whole form, on every process at once; nothing if it is there."""
        if not self.is_whole:
            for part in self.parts:
                part.fill()
            self.is_whole = True

    def to_split(self) -> None:
        """The split form."""
        for part in self.parts:
            part.empty()
        self.is_whole = False

    def finish_step(self) -> None:
        """Give back what was kept gathered for a step."""
        for module in self.shell.modules():
            if isinstance(module, FSDPModule):
                module.reshard()


def _layers(shell: nn.Module) -> Iterator[nn.Module]:
    """The blocks that are gathered one at a time: what transformers says must stay together, else nothing but the whole."""
    kinds: set[str] = set()
    for module in shell.modules():
        kinds.update(getattr(module, "_no_split_modules", None) or ())
    for module in shell.modules():
        if type(module).__name__ in kinds and not isinstance(module, nn.Embedding):
            yield module
