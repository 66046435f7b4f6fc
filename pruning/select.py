"""From scores to the units that stay."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from niwaki.pruning.needs import Grouped
from niwaki.spaces.errors import InputError
from niwaki.spaces.types import Candidate, Group, Kept


def select(space: Grouped, candidate: Candidate, scores: Mapping[str, Tensor]) -> Kept:
    """The ``candidate.widths[group]`` best units of every group, groups inside skipped blocks included.

    Args:
        space: where the groups come from.
        candidate: how many units each group keeps.
        scores: group name -> ``(units,)`` finite values, larger = keep.

    Returns:
        group name -> ``(width,)`` int64 on the CPU, ascending. Of units with equal scores the lower index stays.

    Raises:
        InputError: a group has no width or no scores, or they do not fit it.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> space = SimpleNamespace(groups=(Group("conv", 3, (2, 3), ()),))
        >>> select(space, Candidate({"conv": 2}), {"conv": torch.tensor([0.5, 0.1, 0.9])})
        {'conv': tensor([0, 2])}
    """
    return {group.name: _best(group, candidate, scores) for group in space.groups}


def _best(group: Group, candidate: Candidate, scores: Mapping[str, Tensor]) -> Tensor:
    width = candidate.widths.get(group.name)
    score = scores.get(group.name)
    if width is None or not 1 <= width <= group.units:
        raise InputError(f"candidate {candidate.key}: widths: {group.name}: expected 1 to {group.units}, got {width}")
    if score is None or score.shape != (group.units,):
        got = "nothing" if score is None else f"shape {tuple(score.shape)}"
        raise InputError(f"scores: {group.name}: expected shape ({group.units},), got {got}")
    if not bool(score.isfinite().all()):
        raise InputError(f"scores: {group.name}: expected finite values, got NaN or infinity")
    order = score.detach().cpu().argsort(descending=True, stable=True)
    return torch.sort(order[:width]).values
