"""Plain cross-entropy: training without a teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from niwaki.spaces.errors import InputError


@dataclass(frozen=True)
class CrossEntropy:
    """Mean cross-entropy of the batch.

    Attributes:
        label_smoothing: share of the target that is spread evenly over all classes, 0 .. 1 (Szegedy et al.
            2016, section 7).

    Example:
        >>> import torch
        >>> round(CrossEntropy().loss(torch.zeros(1, 4), None, torch.tensor([2])).item(), 4)    # log 4
        1.3863
    """

    label_smoothing: float = 0.0
    needs_teacher: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"loss 'cross_entropy': label_smoothing {self.label_smoothing!r} is not in 0 .. 1")

    def loss(self, student: Tensor, teacher: Tensor | None, target: Tensor) -> Tensor:
        return F.cross_entropy(student, target, label_smoothing=self.label_smoothing)
