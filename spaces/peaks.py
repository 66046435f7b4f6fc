"""Peak memory of activations straight from a Space, for many candidates at once: what ``measured_peak`` finds.

Every tensor has a size that is a polynomial in the widths and a time in which it is held; the peak is the largest sum
over the moments at which one is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from niwaki.spaces.cost import Bools, Ints, Poly, Selection

_CHUNK = 512
"""Candidates at once: their sums stay in the cache."""


@dataclass(frozen=True, eq=False)
class Tenant:
    """One tensor's memory: ``factor`` x the product of ``sizes`` bytes, held from moment ``born`` to ``last``.

    Attributes:
        blocks: it is not there where one of these is skipped.
        instead: it is there only where this block is skipped, in place of tenant number ``follows``, and held as long.
        unequal: it is there only where these two sizes differ.
    """

    factor: int
    sizes: tuple[Poly, ...]
    born: int
    last: int
    blocks: frozenset[str] = frozenset()
    instead: str | None = None
    follows: int | None = None
    unequal: tuple[Poly, Poly] | None = None

    def bytes(self, chosen: Selection, memo: dict[Poly, Any]) -> Any:
        """An int or (N,)."""
        size: Any = self.factor
        for poly in self.sizes:
            size = size * poly(chosen.widths, memo)
        if self.blocks:
            size = size * chosen.living((self.blocks,))
        if self.instead is not None:
            size = size * ~chosen.alive[self.instead]
        if self.unequal is not None:
            a, b = (poly(chosen.widths, memo) for poly in self.unequal)
            size = size * np.not_equal(a, b)
        return size


@dataclass(frozen=True)
class Handover:
    """Where ``block`` is skipped, tenant number ``entry`` is held for as long as number ``exit`` would have been."""

    block: str
    entry: int
    exit: int


@dataclass(frozen=True)
class Shorter:
    """Where ``block`` is skipped, tenant number ``tenant`` is held until moment ``last`` at most."""

    block: str
    tenant: int
    last: int


@dataclass(frozen=True, eq=False)
class PeakTable:
    """All tenants of one way to run a model; ``handovers``: the last block first.

    ``guessed``: how many of them have a size that could not be followed and count as in the teacher.
    """

    tenants: Sequence[Tenant]
    handovers: Sequence[Handover]
    shorter: Sequence[Shorter] = ()
    guessed: int = 0

    def peaks(self, chosen: Selection) -> Ints:
        """Bytes at the peak of one example, (N,) int64."""
        found = np.zeros(chosen.n, dtype=np.int64)
        for start in range(0, chosen.n, _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, chosen.n))
            found[rows] = self._peaks(part(chosen, rows))
        return found

    def _peaks(self, chosen: Selection) -> Ints:
        memo: dict[Poly, Any] = {}
        moments = max((t.born for t in self.tenants), default=-1) + 1
        change = np.zeros((moments + 1, chosen.n), dtype=np.int64)
        last, columns = self._last(chosen), np.arange(chosen.n)
        for i, tenant in enumerate(self.tenants):
            size = tenant.bytes(chosen, memo)
            change[tenant.born] += size
            until = last.get(i if tenant.follows is None else tenant.follows)
            if until is None:
                change[tenant.last + 1] -= size
            else:
                np.subtract.at(change, (until + 1, columns), size)
        np.cumsum(change, axis=0, out=change)
        peaks: Ints = change.max(axis=0)
        return peaks

    def _last(self, chosen: Selection) -> dict[int, Ints]:
        """When what blocks read is given back, (N,) each."""
        moved = {h.entry for h in self.handovers} | {s.tenant for s in self.shorter}
        last = {i: np.full(chosen.n, self.tenants[i].last, dtype=np.int64) for i in moved}
        for s in self.shorter:
            last[s.tenant] = np.where(chosen.alive[s.block], last[s.tenant], np.minimum(last[s.tenant], s.last))
        for h in self.handovers:
            until = last.get(h.exit, self.tenants[h.exit].last)
            last[h.entry] = np.where(chosen.alive[h.block], last[h.entry], np.maximum(last[h.entry], until))
        return last


def part(chosen: Selection, rows: Ints) -> Selection:
    """Some of the candidates."""
    return Selection(chosen.widths[:, rows], {b: a[rows] for b, a in chosen.alive.items()}, {})


@dataclass(eq=False)
class Peaks:
    """Peaks of candidates as they are carved: the user's own class, or generated source.

    Attributes:
        own: as the user's code holds its tensors; None where it cannot be followed.
        source: as generated source does, which gives every tensor up after its last use.
        units: full widths of the groups, (groups, 1).
        whole: blocks that the user's class can do without.
        keeps: whether the user's class survives a cut, without and with skipped blocks; supposed until
            :func:`niwaki.spaces.memory.settle` has found out. The class never holds less than the source.
    """

    own: PeakTable | None
    source: PeakTable
    units: Ints
    whole: frozenset[str]
    keeps: tuple[bool, bool] = (True, True)

    def __call__(self, chosen: Selection) -> Ints:
        """Bytes at the peak of one example, (N,) int64."""
        if self.own is None:
            return self.source.peaks(chosen)
        own = self._classes(chosen)
        found = np.zeros(chosen.n, dtype=np.int64)
        for table, rows in ((self.own, np.flatnonzero(own)), (self.source, np.flatnonzero(~own))):
            found[rows] = table.peaks(part(chosen, rows))
        return found

    def _classes(self, chosen: Selection) -> Bools:
        """Which candidates become the user's class, (N,)."""
        shallow = _any_skipped(chosen.alive, chosen.n)
        generated = _any_skipped({b: a for b, a in chosen.alive.items() if b not in self.whole}, chosen.n)
        uncut = ~shallow & (chosen.widths == self.units).all(axis=0)
        kept: Bools = uncut | (np.where(shallow, self.keeps[1], self.keeps[0]) & ~generated)
        return kept


def _any_skipped(alive: Mapping[str, Bools], n: int) -> Bools:
    found: Bools = np.logical_or.reduce([~a for a in alive.values()]) if alive else np.zeros(n, dtype=np.bool_)
    return found
