"""Knowledge distillation: Hinton, Vinyals and Dean 2015 (arXiv 1503.02531)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from niwaki.spaces.errors import InputError


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, summed over classes and averaged over the batch.

    ``T^2`` keeps the size of the gradients independent of the temperature (section 2 of the paper).
    (B, C), (B, C) -> scalar.

    Example:
        >>> import torch
        >>> z = torch.tensor([[1.0, 2.0, 3.0]])
        >>> softened_divergence(z + 5, z, 4.0).abs().item() < 1e-6    # logits are only defined up to a constant
        True
    """
    expected = F.log_softmax(teacher / temperature, dim=1)
    found = F.log_softmax(student / temperature, dim=1)
    return F.kl_div(found, expected, reduction="batchmean", log_target=True) * temperature**2


@dataclass(frozen=True)
class Hinton:
    """``(1 - alpha) * CE(student, target) + alpha * T^2 * KL(teacher || student)``.

    Attributes:
        alpha: weight of the teacher, 0 .. 1.
        temperature: softens both distributions, above 0.
        label_smoothing: of the cross-entropy, 0 .. 1.
    """

    alpha: float = 0.9
    temperature: float = 4.0
    label_smoothing: float = 0.0
    needs_teacher: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise InputError(f"loss 'hinton': alpha {self.alpha!r} is not between 0 and 1")
        if not self.temperature > 0:
            raise InputError(f"loss 'hinton': temperature {self.temperature!r} is not above 0")
        if not 0 <= self.label_smoothing < 1:
            raise InputError(f"loss 'hinton': label_smoothing {self.label_smoothing!r} is not in 0 .. 1")

    def loss(self, student: Tensor, teacher: Tensor | None, target: Tensor) -> Tensor:
        if teacher is None:
            raise ValueError("loss 'hinton' needs the teacher's logits")
        soft = softened_divergence(student, teacher, self.temperature)
        hard = F.cross_entropy(student, target, label_smoothing=self.label_smoothing)
        return (1 - self.alpha) * hard + self.alpha * soft
