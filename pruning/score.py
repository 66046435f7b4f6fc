"""Scores of all groups of a space."""

from __future__ import annotations

from torch import Tensor, nn

from niwaki.pruning.collect import collect
from niwaki.pruning.first_order import Batches
from niwaki.pruning.needs import Criterion, Grouped


def score_groups(model: nn.Module, space: Grouped, criterion: Criterion, batches: Batches = ()) -> dict[str, Tensor]:
    """Collect what ``criterion`` needs, once, and score every group: name -> ``(units,)``, larger = keep.

    Args and errors as :func:`niwaki.pruning.collect`; ValueError when a criterion breaks its contract.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from niwaki.pruning.criteria.l1 import L1
        >>> from niwaki.spaces.types import Group, Slice
        >>> model, rows = nn.Linear(3, 2, bias=False), torch.tensor([[0], [1]])
        >>> space = SimpleNamespace(groups=(Group("", 2, (1, 2), (Slice("weight", 0, "produces", rows),)),))
        >>> score_groups(model, space, L1())[""].shape
        torch.Size([2])
    """
    stats = collect(model, space, criterion.needs, batches)
    scores = {group.name: criterion.score(group, stats) for group in space.groups}
    for group in space.groups:
        score = scores[group.name]
        if score.shape != (group.units,) or not bool(score.isfinite().all()):
            raise ValueError(f"{criterion}: group {group.name}: expected ({group.units},) finite scores, got "
                             f"{tuple(score.shape)}, finite: {bool(score.isfinite().all())}")
    return scores
