"""What a criterion asks for, what it is given, and what it must answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from niwaki.spaces.types import Group


@dataclass(frozen=True)
class Needs:
    """What must be gathered before a criterion can score.

    Attributes:
        gradients: forward and backward passes over labelled batches; without them weights are enough and no
            batch is looked at.

    Example:
        >>> Needs(gradients=True).gradients
        True
    """

    gradients: bool = False


@dataclass(frozen=True, eq=False)
class Stats:
    """What :func:`niwaki.pruning.collect` gathered from a teacher.

    Attributes:
        tensors: the floating-point tensors of the teacher's state dict, float32 on the CPU. They may share memory
            with the teacher: score before it is changed.
        taylor: group name -> (units,) float64, the mean over examples of |first-order change of the example's
            loss when the unit is removed|, not normalised. Empty unless gradients were asked for; a group of
            which no tap ran is absent.
        examples: how many examples ``taylor`` is the mean of.
    """

    tensors: Mapping[str, Tensor]
    taylor: Mapping[str, Tensor] = field(default_factory=dict)
    examples: int = 0


@runtime_checkable
class Criterion(Protocol):
    """Which units of a group matter: a frozen dataclass whose fields are its options, one file in ``criteria/``.

    ``score`` returns ``(units,)`` finite values, larger = keep, deterministic, and equivariant to a permutation of
    the units in the teacher (a criterion that ignores the teacher, as Random does, is exempt from the last).
    """

    @property
    def needs(self) -> Needs: ...

    def score(self, group: Group, stats: Stats) -> Tensor: ...


class Grouped(Protocol):
    """The part of a Space that pruning looks at."""

    @property
    def groups(self) -> tuple[Group, ...]: ...
