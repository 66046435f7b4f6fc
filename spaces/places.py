"""Which positions of many dimensions a candidate keeps, found in one sweep over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from niwaki.spaces import axes
from niwaki.spaces.axes import Atom, Dim

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Cut = tuple[int, int] | Tensor | None
"""What stays of a dimension: everything (None), a run (start, length), or these positions, int64, ascending."""


class Ranks:
    """Every unit of a space, numbered through all groups, with its place in the order of its group.

    Args:
        atoms: group -> its atom.
        order: group -> ``(units,)`` its units, best first.
    """

    def __init__(self, atoms: Mapping[str, Atom], order: Mapping[str, Tensor]) -> None:
        self.names = tuple(atoms)
        self.first: dict[Atom, int] = {}
        self.total = 0
        ranks, owners = [], []
        for i, (name, atom) in enumerate(atoms.items()):
            self.first[atom] = self.total
            self.total += atom.size
            ranks.append(np.argsort(order[name].numpy()))
            owners.append(np.full(atom.size, i))
        self._ranks = np.concatenate([*ranks, [-1]]).astype(np.int64)
        self._owners = np.concatenate([*owners, [len(self.names)]]).astype(np.int64)

    def alive(self, widths: Mapping[str, int]) -> Flags:
        """``(total + 1,)``: which units the widths keep; the last one stands for whatever no group decides."""
        limits = np.array([*(widths[name] for name in self.names), 0])
        kept: Flags = self._ranks < limits[self._owners]
        return kept


class Places:
    """Dimensions side by side, every position with the numbers of the units that it needs.

    A position of a product (heads x width) needs one unit of each factor: it stays where all of them do, which is what
    :func:`niwaki.spaces.axes.mask` says of one dimension.
    """

    def __init__(self, dims: Sequence[Dim], ranks: Ranks) -> None:
        found = [_needs(dim, ranks.first) for dim in dims]
        factors = max((f.shape[1] for f in found), default=0)
        padded = [np.pad(f, ((0, 0), (0, factors - f.shape[1])), constant_values=ranks.total) for f in found]
        self._needs = np.concatenate([np.zeros((0, factors), np.int64), *padded]).T.copy()
        self._sizes = np.array([len(f) for f in found], np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self._sizes)]).astype(np.int64)
        self._local = np.arange(self.starts[-1]) - np.repeat(self.starts[:-1], self._sizes)

    def kept(self, alive: Flags) -> Ints:
        """``(positions + 1,)``: how many of the first n positions of all dimensions in a row stay, for every n."""
        flags = np.ones(int(self.starts[-1]), np.bool_)
        for factor in self._needs:
            flags &= alive[factor]
        return np.concatenate([[0], np.cumsum(flags)]).astype(np.int64)

    def cuts(self, counts: Ints, device: torch.device) -> list[Cut]:
        """What stays of each dimension, given what :meth:`kept` counted."""
        index = self._local[np.flatnonzero(np.diff(counts))]
        bounds = counts[self.starts]
        lengths = np.diff(bounds)
        firsts = index[bounds[:-1]]
        runs = (index[bounds[1:] - 1] - firsts + 1 == lengths).tolist()
        places = torch.split(torch.from_numpy(index).to(device), lengths.tolist())
        return [
            None if length == size else (start, length) if run else place
            for length, size, start, run, place in zip(
                lengths.tolist(), self._sizes.tolist(), firsts.tolist(), runs, places, strict=True
            )
        ]


def _needs(dim: Dim, first: Mapping[Atom, int]) -> Ints:
    """``(size, factors)``: for every position the numbers of the units it needs; -1, the last number, where none."""
    segments: list[Ints] = []
    for product in axes.resolve(dim):
        rows = np.zeros((1, 0), np.int64)
        for atom in product:
            inner = np.zeros((atom.size, 0), np.int64)
            if atom.bind is not None:
                inner = _needs(atom.bind, first)
            elif atom in first:
                inner = first[atom] + np.arange(atom.size, dtype=np.int64)[:, None]
            outer = np.repeat(rows, len(inner), axis=0)
            rows = np.concatenate([outer, np.tile(inner, (len(rows), 1))], axis=1)
        segments.append(rows)
    factors = max(s.shape[1] for s in segments)
    padded = [np.pad(s, ((0, 0), (0, factors - s.shape[1])), constant_values=-1) for s in segments]
    return np.concatenate(padded)
