"""L2 norm of the weights that make and read a unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from niwaki.pruning.criteria._norms import LAYERS, check_sides, coupled_norm
from niwaki.pruning.needs import Needs, Stats
from niwaki.spaces.types import Group


@dataclass(frozen=True)
class L2:
    """Mean-normalised L2 norm over all layers a unit is coupled through.

    The score of unit u is ``sqrt(mean_t(|w_t,u|^2 / mean_v |w_t,v|^2))`` over the tensors t that produce or consume
    the unit: every tensor has the same say, however large it is. On a group with one tensor the order is that of
    the plain L2 norm of its filters (Molchanov et al., arXiv 1611.06440, section 2.2, "minimum weight").

    sides says which weights count: produces (filters that make the unit), consumes (weights that read
    it), carries (depthwise filters); vectors (biases, normalisers) never do while there is a matrix or filter.

    Example:
        >>> import torch
        >>> from niwaki.spaces.types import Group, Slice
        >>> group = Group("fc", 2, (1, 2), (Slice("fc.weight", 0, "produces", torch.tensor([[0], [1]])),))
        >>> L2().score(group, Stats({"fc.weight": torch.tensor([[1.0, -1.0], [3.0, 3.0]])}))
        tensor([0.4472, 1.3416], dtype=torch.float64)
    """

    sides: tuple[str, ...] = LAYERS
    needs: ClassVar[Needs] = Needs()

    def __post_init__(self) -> None:
        object.__setattr__(self, "sides", check_sides("l2", self.sides))

    def score(self, group: Group, stats: Stats) -> Tensor:
        """``(units,)`` float64, larger = keep."""
        return coupled_norm(group, stats.tensors, 2, self.sides)
