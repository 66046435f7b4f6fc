"""Any weight of the layer may go."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from niwaki.spaces.sparsity import Sparsity


@dataclass(frozen=True)
class Unstructured:
    """Keep the highest scores of the whole layer (Han et al., NeurIPS 2015, arXiv 1506.02626, with magnitudes).

    Example:
        >>> import torch
        >>> Unstructured().mask(torch.tensor([[1.0, 4.0], [3.0, 2.0]]), Sparsity.parse("0.5")).tolist()
        [[False, True], [True, False]]
    """

    def accepts(self, sparsity: Sparsity) -> bool:
        return sparsity.m == 0

    def mask(self, score: Tensor, sparsity: Sparsity) -> Tensor:
        """Bool, shape of ``score``; exactly ``sparsity.kept`` True; of equal scores the earlier one stays."""
        kept = sparsity.kept(score.numel(), score.numel() // max(1, score.shape[0]))
        order = score.flatten().argsort(descending=True, stable=True)
        mask = torch.zeros(score.numel(), dtype=torch.bool, device=score.device)
        mask[order[:kept]] = True
        return mask.view(score.shape)
