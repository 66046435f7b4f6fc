"""The slow obvious truth about a cut: the whole model, deaf to the removed units."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from niwaki.spaces import Candidate, Kept, Space


def draw(space: Space, seed: int, depth: bool = True) -> tuple[Candidate, dict[str, Tensor]]:
    """Uneven random widths (1..units, not only the choices on offer), random units, random depth."""
    g = torch.Generator().manual_seed(seed)
    widths = {group.name: int(torch.randint(1, group.units + 1, (), generator=g)) for group in space.groups}
    kept = {
        group.name: torch.randperm(group.units, generator=g)[: widths[group.name]].sort().values
        for group in space.groups
    }
    skipped: set[str] = set()
    for stage, blocks in space.stages.items():
        k = int(torch.randint(space.least[stage], len(blocks) + 1, (), generator=g)) if depth else len(blocks)
        skipped |= set(blocks[k:])
    return Candidate(widths, frozenset(skipped)), kept


def masked(model: nn.Module, space: Space, candidate: Candidate, kept: Kept) -> nn.Module:
    """A copy of the model whose layers ignore removed units (their input weights are zero) and whose skipped blocks
    return what they were given. Nothing is cut; no graph is involved."""
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
        branch = full.get_submodule(name)
        branch.register_forward_hook(_identity if _is_whole(full, name) else _nothing)
    return full


def _is_whole(model: nn.Module, name: str) -> bool:
    """Whether the module holds the addition itself (a block class), or only the branch (a Sequential added outside)."""
    return not isinstance(model.get_submodule(name), nn.Sequential)


def _identity(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
    return args[0]


def _nothing(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
    return torch.zeros_like(out)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))
