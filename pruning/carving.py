"""Carving for those who name no units: the largest weights stay."""

from __future__ import annotations

from torch import nn

from niwaki.pruning.criteria.l2 import L2
from niwaki.pruning.score import score_groups
from niwaki.pruning.select import select
from niwaki.spaces import Candidate, Kept, Space
from niwaki.spaces import carve as carve_units


def carve(model: nn.Module, space: Space, candidate: Candidate, kept: Kept | None = None) -> nn.Module:
    """Cut a candidate out of a model; see :func:`niwaki.spaces.carve`.

    Where ``kept`` is None the units with the largest weights stay (criterion L2), in every group.

    Example:
        >>> import torch
        >>> from niwaki.spaces import derive
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> space = derive(net, torch.zeros(2, 3, 8, 8))
        >>> carve(net, space, space.uniform(0.5))[0].weight.shape
        torch.Size([4, 3, 3, 3])
    """
    if kept is None:
        kept = select(space, candidate, score_groups(model, space, L2()))
    return carve_units(model, space, candidate, kept)
