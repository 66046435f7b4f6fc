"""N of every M consecutive weights stay: what sparse tensor cores run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from niwaki.spaces.sparsity import Sparsity


@dataclass(frozen=True)
class NOfM:
    """Keep the N highest scores of every M along the flattened input of one output channel (dimension 0).

    The inputs that are left when the fan-in is no multiple of M stay dense (Mishra et al., arXiv 2104.08378, for
    2:4).

    Example:
        >>> import torch
        >>> NOfM().mask(torch.tensor([[1.0, 4.0, 3.0, 2.0, 0.0]]), Sparsity.parse("2:4")).tolist()
        [[False, True, True, False, True]]
    """

    def accepts(self, sparsity: Sparsity) -> bool:
        return sparsity.m > 0

    def mask(self, score: Tensor, sparsity: Sparsity) -> Tensor:
        """Bool, shape of ``score``; exactly ``sparsity.kept`` True; of equal scores the earlier one stays."""
        rows = score.reshape(score.shape[0], -1)
        whole = rows.shape[1] // sparsity.m * sparsity.m
        runs = rows[:, :whole].reshape(-1, sparsity.m)
        order = runs.argsort(dim=1, descending=True, stable=True)
        stays = torch.zeros_like(runs, dtype=torch.bool).scatter_(1, order[:, : sparsity.n], True)
        mask = torch.ones_like(rows, dtype=torch.bool)
        mask[:, :whole] = stays.view(rows.shape[0], whole)
        return mask.view(score.shape)
