"""Size of the BatchNorm scale (Network Slimming)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from niwaki.pruning.criteria._norms import coupled_norm
from niwaki.pruning.needs import Needs, Stats
from niwaki.spaces.types import Group, Slice


@dataclass(frozen=True)
class BNScale:
    """``|gamma|`` of the BatchNorms a unit passes through, averaged over them.

    Liu et al., Learning Efficient Convolutional Networks through Network Slimming (ICCV 2017, arXiv 1708.06519),
    section 3. BatchNorm makes its input unit-variance, so the scales of several BatchNorms of one residual stream
    are comparable as they are and are not normalised: a branch with tiny scales is meant to count for little.
    A BatchNorm is recognised by the running statistics beside its weight. A group without one is scored by the rule
    of L2. Scales mean something after training only: in a fresh model all are 1, and the first units stay.

    Example:
        >>> import torch
        >>> from niwaki.spaces.types import Group, Slice
        >>> group = Group("conv", 2, (1, 2), (Slice("bn.weight", 0, "carries", torch.tensor([[0], [1]])),))
        >>> BNScale().score(group, Stats({"bn.weight": torch.tensor([-2.0, 0.5]), "bn.running_mean": torch.zeros(2)}))
        tensor([2.0000, 0.5000], dtype=torch.float64)
    """

    needs: ClassVar[Needs] = Needs()

    def score(self, group: Group, stats: Stats) -> Tensor:
        """``(units,)`` float64, larger = keep."""
        scales = [stats.tensors[s.tensor].double().abs()[s.index].mean(1) for s in group.slices if _is_scale(s, stats)]
        if not scales:
            return coupled_norm(group, stats.tensors, 2)
        return torch.stack(scales).mean(0)


def _is_scale(piece: Slice, stats: Stats) -> bool:
    module, _, leaf = piece.tensor.rpartition(".")
    statistics = f"{module}.running_mean" if module else "running_mean"
    return piece.side == "carries" and leaf == "weight" and statistics in stats.tensors
