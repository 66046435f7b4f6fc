"""Norms of a unit's weights over all the tensors it is coupled through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from niwaki.spaces.errors import InputError, nearest
from niwaki.spaces.types import Group, Slice

SIDES = ("produces", "consumes", "carries")
LAYERS = ("produces", "consumes")


def check_sides(criterion: str, sides: Iterable[str]) -> tuple[str, ...]:
    """``sides`` as a tuple (a config brings a list); InputError unless each is a side of a Slice."""
    chosen = (sides,) if isinstance(sides, str) else tuple(sides)
    for side in chosen:
        if side not in SIDES:
            raise InputError(f"criterion {criterion}: sides: unknown value {side!r}; {nearest(str(side), SIDES)}")
    if not chosen:
        raise InputError(f"criterion {criterion}: sides: expected at least one of {', '.join(SIDES)}, got none")
    return chosen


def coupled_norm(group: Group, tensors: Mapping[str, Tensor], power: int, sides: tuple[str, ...] = LAYERS) -> Tensor:
    """The mean-normalised norm of each unit, ``(units,)`` float64; ``power`` 1 or 2.

    Per tensor t, ``n_t(u) = sum |w|^power`` over the sub-tensor of unit u. The tensors of a group differ in size
    and scale by orders of magnitude, so each is divided by its mean over the units before they are averaged::

        score(u) = (mean_t  n_t(u) / mean_v n_t(v)) ^ (1 / power)

    Scaling any one tensor therefore changes nothing, and every tensor has the same say. A tensor of zeros (a
    zero-initialised branch) says nothing: it adds 0 for every unit.
    """
    parts = []
    for piece in _pieces(group, tensors, sides):
        sums = unit_sums(tensors[piece.tensor], piece, power)
        mean = sums.mean()
        parts.append(sums / mean if mean > 0 else sums)
    if not parts:
        return torch.zeros(group.units, dtype=torch.float64)
    return torch.stack(parts).mean(0) ** (1 / power)


def unit_sums(tensor: Tensor, piece: Slice, power: int) -> Tensor:
    """``sum |w|^power`` over the sub-tensor of each unit: ``(units,)`` float64."""
    padded = tensor.unsqueeze(-1)  # a vector, too, then has a dimension to reduce
    others = [d for d in range(padded.ndim) if d != piece.dim]
    norms = torch.linalg.vector_norm(padded, ord=power, dim=others, dtype=torch.float64)
    sums: Tensor = norms.pow(power)[piece.index].sum(1)
    return sums


def _pieces(group: Group, tensors: Mapping[str, Tensor], sides: tuple[str, ...]) -> list[Slice]:
    """The weights to look at: matrices and filters of ``sides``; failing those of any side; failing those anything."""
    present = [s for s in group.slices if s.tensor in tensors]
    matrices = [s for s in present if tensors[s.tensor].ndim >= 2]
    return [s for s in matrices if s.side in sides] or matrices or present
