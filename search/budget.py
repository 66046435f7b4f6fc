"""Budgets: what the user writes, the limits they mean for one teacher, and whether any candidate can meet them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from niwaki.search.costing import FIELDS, Costing, Floats, Ints, LatencyPredictor, Limits, SearchSpace, value_of
from niwaki.search.units import parse, show
from niwaki.spaces.errors import InputError
from niwaki.spaces.types import Cost

__all__ = [
    "Budget", "Costing", "LatencyPredictor", "Limits", "SearchSpace", "check_reachable", "closest", "show", "value_of",
]


@dataclass(frozen=True)
class Budget:
    """Upper bounds that must all hold; None where there is none.

    Each is text with a unit (``latency`` us, ms, s; ``size`` and ``memory`` B, kB, MB, GB, KiB, MiB, 1 MB = 10^6 bytes;
    ``macs`` and ``params`` with k, M, G), a percentage of the teacher (``"60%"``), or a bare number (ms, bytes,
    MACs, parameters). Raises InputError naming key, value and examples for anything else.

    Example:
        >>> limits = Budget(latency="3ms", size="50%").resolve(Cost(macs=10, params=4, bytes=4_000_000, latency_ms=5.0))
        >>> dict(limits.values)
        {'latency': 3.0, 'size': 2000000.0}
    """

    latency: str | float | None = None
    macs: str | float | None = None
    params: str | float | None = None
    size: str | float | None = None
    memory: str | float | None = None

    def __post_init__(self) -> None:
        for name, value in self.given.items():
            parse(name, value)

    @property
    def given(self) -> dict[str, str | float]:
        """The budgets that are set, by name."""
        pairs = {name: getattr(self, name) for name in FIELDS}
        return {name: value for name, value in pairs.items() if value is not None}

    def resolve(self, teacher: Cost) -> Limits:
        """Absolute limits; percentages are of ``teacher``, whose latency must be known where one is asked for."""
        values, units = {}, {}
        for name, text in self.given.items():
            amount = parse(name, text)
            values[name] = amount.number * (value_of(teacher, name) if amount.relative else 1.0)
            units[name] = amount.unit
        return Limits(values, units)


def check_reachable(limits: Limits, costing: Costing, seed: int = 0) -> None:
    """Raise InputError, with the numbers, unless some candidate meets every budget.

    The counts are least at the smallest candidate. Memory and a predicted latency need not be, so before a budget is
    refused the surroundings of the smallest and of random candidates are searched as well.
    """
    if not limits.values:
        return
    if "latency" in limits.values and costing.latency is None:
        raise ValueError("check_reachable: a latency budget needs a costing with a latency model")
    if "memory" in limits.values and not costing.memory:
        raise ValueError("check_reachable: a memory budget needs a costing with memory")
    best, fraction = closest(limits, costing, seed)
    if fraction <= 1:
        return
    alone = {name: closest(limits.only(name), costing, seed) for name in limits.values}
    broken = [
        f"{name} {_show(limits, name, limits.values[name])} is below the smallest candidate, "
        f"{_show(limits, name, limits.values[name] * least)}"
        for name, (_, least) in alone.items() if least > 1
    ]
    if broken:
        raise InputError(f"budget: {'; '.join(broken)}")
    costs = costing(best[None])
    asked = " and ".join(f"{name} {_show(limits, name, limit)}" for name, limit in limits.values.items())
    found = " and ".join(f"{name} {_show(limits, name, float(costs[name][0]))}" for name in limits.values)
    raise InputError(
        f"budget: {asked} cannot hold together, though each alone can; the closest candidate found takes {found}"
    )


def closest(limits: Limits, costing: Costing, seed: int = 0, starts: int = 8) -> tuple[Ints, float]:
    """The candidate found with the smallest fraction of the budgets (stops at the first that fits).

    Descends by the best single step from the smallest candidate and, if that does not fit, from ``starts`` random ones.
    Returns its ``(variables,)`` choice indices and its fraction (<= 1: it fits).
    """
    space = costing.space
    sizes = np.array([len(v.choices) for v in space.variables], dtype=np.int64)
    rng = np.random.default_rng(seed)
    first = np.asarray(space.encode(space.smallest()), dtype=np.int64)
    points = [first, *(rng.integers(0, sizes) for _ in range(starts))]
    best, least = first, float("inf")
    for point in points:
        found, fraction = _descend(point, sizes, limits, costing)
        if fraction < least:
            best, least = found, fraction
        if least <= 1:
            break
    return best, least


def _descend(point: Ints, sizes: Ints, limits: Limits, costing: Costing) -> tuple[Ints, float]:
    steps = np.concatenate([np.eye(len(sizes), dtype=np.int64), -np.eye(len(sizes), dtype=np.int64)])
    fraction = float(limits.fraction(costing(point[None]))[0])
    while fraction > 1:
        near = point + steps
        near = near[((near >= 0) & (near < sizes)).all(axis=1)]
        if not len(near):
            break
        fractions: Floats = limits.fraction(costing(near))
        best = int(np.argmin(fractions))
        if fractions[best] >= fraction:
            break
        point, fraction = near[best], float(fractions[best])
    return point, fraction


def _show(limits: Limits, name: str, number: float) -> str:
    return show(name, number, limits.units.get(name))
