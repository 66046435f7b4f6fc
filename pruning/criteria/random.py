"""Random scores: the baseline every other criterion must beat."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from niwaki.pruning.needs import Needs, Stats
from niwaki.spaces.types import Group


@dataclass(frozen=True)
class Random:
    """Uniform scores in [0, 1) from ``seed`` and the group's name.

    Independent of the teacher, of the order in which groups are scored and of the process. That makes it exempt
    from equivariance: a teacher whose units are permuted gets the same scores in the same places.

    Example:
        >>> from niwaki.spaces.types import Group
        >>> group, stats = Group("conv", 4, (4,), ()), Stats({})
        >>> bool((Random(7).score(group, stats) == Random(7).score(group, stats)).all())
        True
    """

    seed: int = 0
    needs: ClassVar[Needs] = Needs()

    def score(self, group: Group, stats: Stats) -> Tensor:
        """``(units,)`` float64, larger = keep."""
        digest = hashlib.sha256(f"{self.seed}/{group.name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return torch.rand(group.units, generator=generator, dtype=torch.float64)
