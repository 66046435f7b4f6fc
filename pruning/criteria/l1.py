"""L1 norm of the weights that make and read a unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from niwaki.pruning.criteria._norms import LAYERS, check_sides, coupled_norm
from niwaki.pruning.needs import Needs, Stats
from niwaki.spaces.types import Group


@dataclass(frozen=True)
class L1:
    """Mean-normalised L1 norm over all layers a unit is coupled through.

    Li et al., Pruning Filters for Efficient ConvNets (ICLR 2017, arXiv 1608.08710), section 3.1, scores a filter by
    ``sum |w|``. Here the weights that consume the unit count too, since they leave with it, and in a residual
    stream several layers produce it: each tensor's sums are divided by their mean over the units, then averaged
    (``L1(sides=("produces",))`` on a plain chain orders the units exactly as the paper does).

    sides says which weights count: produces (filters that make the unit), consumes (weights that read
    it), carries (depthwise filters); vectors (biases, normalisers) never do while there is a matrix or filter.

    Example:
        >>> import torch
        >>> from niwaki.spaces.types import Group, Slice
        >>> group = Group("fc", 2, (1, 2), (Slice("fc.weight", 0, "produces", torch.tensor([[0], [1]])),))
        >>> L1().score(group, Stats({"fc.weight": torch.tensor([[1.0, -1.0], [3.0, 3.0]])}))
        tensor([0.5000, 1.5000], dtype=torch.float64)
    """

    sides: tuple[str, ...] = LAYERS
    needs: ClassVar[Needs] = Needs()

    def __post_init__(self) -> None:
        object.__setattr__(self, "sides", check_sides("l1", self.sides))

    def score(self, group: Group, stats: Stats) -> Tensor:
        """``(units,)`` float64, larger = keep."""
        return coupled_norm(group, stats.tensors, 1, self.sides)
