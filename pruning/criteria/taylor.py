"""First-order change of the loss when a unit is removed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from niwaki.pruning.criteria._norms import coupled_norm
from niwaki.pruning.needs import Needs, Stats
from niwaki.spaces.types import Group


@dataclass(frozen=True)
class Taylor:
    """Mean over examples of ``|sum over taps and positions of z * dLoss/dz|``, divided by its l2 norm over the group.

    Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference (ICLR 2017,
    arXiv 1611.06440), section 2.2 and its layer-wise l2 normalisation. The absolute value is taken per example,
    after the sum over positions and taps; a unit whose effects differ in sign between examples is not thought
    useless. Removing a unit of a residual stream zeroes every contribution to it at once, so the first-order change
    is the signed sum over the taps (which taps count: :mod:`niwaki.pruning.first_order`).

    Two things are equal to the paper though they look different. It averages over the positions of one map: a
    constant factor within a layer, gone after the normalisation (and wrong for a stream of several resolutions).
    It reads the map after ReLU: with y = relu(z), ``z * dL/dz = z * relu'(z) * dL/dy = y * dL/dy``, so the output of
    the BatchNorm before the ReLU gives the same product.

    A group of which no tap ran is scored by the rule of L2. ``normalise=False`` leaves the raw change, in units of
    the loss.

    Example:
        >>> import torch
        >>> from niwaki.spaces.types import Group
        >>> Taylor().score(Group("conv", 2, (1, 2), ()), Stats({}, {"conv": torch.tensor([3.0, 4.0])}, examples=8))
        tensor([0.6000, 0.8000], dtype=torch.float64)
    """

    normalise: bool = True
    needs: ClassVar[Needs] = Needs(gradients=True)

    def score(self, group: Group, stats: Stats) -> Tensor:
        """``(units,)`` float64, larger = keep."""
        if group.name not in stats.taylor:
            return coupled_norm(group, stats.tensors, 2)
        change = stats.taylor[group.name].double()
        norm = change.norm()
        return change / norm if self.normalise and norm > 0 else change
