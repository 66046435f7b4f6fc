"""What a distillation loss is."""

from __future__ import annotations

from typing import ClassVar, Protocol

from torch import Tensor


class Loss(Protocol):
    """One file of this folder: a pure function of the same name, and a frozen dataclass whose fields are its options.

    ``needs_teacher`` says whether ``loss`` reads ``teacher``. Every class has the field ``label_smoothing``,
    which the recipe sets.
    """

    needs_teacher: ClassVar[bool]

    def loss(self, student: Tensor, teacher: Tensor | None, target: Tensor) -> Tensor:
        """Scalar loss of a batch: ``student`` and ``teacher`` logits (B, C) float32, ``target`` (B,) int64.

        Called once a training step, under no autocast. No gradient flows into ``teacher``.
        """
