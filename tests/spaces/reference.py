"""The slow obvious truth about a cut: the whole model, deaf to the removed units."""

from __future__ import annotations

import copy
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from niwaki.spaces import Candidate, Kept, Space, check
from niwaki.spaces.flow import base_name, is_layer
from niwaki.spaces.trace import module_path, shape_of


def draw(space: Space, seed: int, depth: bool = True) -> tuple[Candidate, dict[str, Tensor]]:
    """Uneven random widths (1..units, not only the choices on offer), random units, random depth."""
    return check.draw(space, torch.Generator().manual_seed(seed), depth)


def masked(model: nn.Module, space: Space, candidate: Candidate, kept: Kept) -> nn.Module:
    """A copy of the model whose layers ignore removed units (their input weights are zero) and whose skipped blocks
    add nothing to their shortcuts. Nothing is cut, and no carved graph runs."""
    full = copy.deepcopy(model)
    state = full.state_dict(keep_vars=True)
    with torch.no_grad():
        for group in space.groups:
            gone = torch.ones(group.units, dtype=torch.bool)
            gone[kept[group.name]] = False
            for s in group.slices:
                if s.side == "consumes":
                    state[s.tensor].index_fill_(s.dim, s.index[gone].flatten(), 0.0)
    for name in candidate.skipped:
        silence(full, space, name)
    return full


NORMS = ("batch_norm", "layer_norm", "group_norm", "rms_norm")


def silence(model: nn.Module, space: Space, name: str) -> None:
    """Zeros out of the last layer of a block's branch: the addition adds nothing. The graph only tells which layer."""
    cone = space.plan.cones["eval"][name]
    node = next(a for a in cone.add.args if a is not cone.skip)
    while not is_layer(node) and base_name(node) not in NORMS:
        inputs = [i for i in node.all_input_nodes if i in cone.nodes and isinstance(i.meta["val"], Tensor)]
        node = max(inputs, key=lambda i: prod(shape_of(i.meta["val"])))
    model.get_submodule(module_path(node)).register_forward_hook(_nothing)


def _nothing(module: nn.Module, args: tuple[Tensor, ...], out: Any) -> Any:
    """Attention returns a tuple, its result first."""
    return (torch.zeros_like(out[0]), *out[1:]) if isinstance(out, tuple) else torch.zeros_like(out)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))
