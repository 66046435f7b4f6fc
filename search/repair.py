"""Bring any proposal into the budget, close to its upper edge, changing as little of it as a random path allows.

Everything works on ``(variables,)`` vectors of choice indices (0 = smallest). A path of random single steps is laid out
first and its prefixes are costed together, so that one call needs a handful of vectorised costings, not one a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from niwaki.search.costing import Costing, Floats, Ints, Limits

_ROWS = 32  # prefixes costed at once
_ROUNDS = 16  # of growing; each makes at least one step
_SWAPS = 96  # exchanges tried at once where no single step fits

_Point = tuple[Ints, float]
"""A point that fits, and the fraction of the allowance that it takes."""


def fit_to(
    indices: Ints,
    costing: Costing,
    limits: Limits,
    fill: float,
    generator: np.random.Generator,
    tolerance: float = 0.05,
) -> Ints | None:
    """A candidate near ``indices`` that takes at most ``fill`` of every budget, and nearly that much of the tightest.

    Where the proposal is too expensive, random variables are stepped down, by preference those whose steps relieve the
    violated budgets most; where it is cheaper than ``(1 - tolerance) x fill``, random variables are stepped up while
    everything fits, by preference those that were stepped down before. Memory is a maximum, not a sum: most variables
    are none of its business, and what they lost on the way down is given back whatever the others use.

    Args:
        indices: ``(variables,)`` choice indices; out-of-range entries are clipped.
        fill: fraction of each limit that may be used, > 0.
        generator: source of all randomness.
        tolerance: how far under ``fill`` the tightest budget may end, where the space allows.

    Returns:
        ``(variables,)`` choice indices, or None where no candidate on the way down fits.

    Example:
        >>> import torch
        >>> from niwaki.spaces import derive
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        >>> costing = Costing(derive(model, torch.randn(2, 8)))
        >>> limits = Limits({"macs": 200.0}, {})
        >>> row = fit_to(np.array([7]), costing, limits, 1.0, np.random.default_rng(0))
        >>> bool(costing(row[None])["macs"][0] <= 200)
        True
    """
    top = np.array([len(v.choices) - 1 for v in costing.space.variables], dtype=np.int64)
    origin = np.clip(np.asarray(indices, dtype=np.int64), 0, top)
    if not limits.values:
        return origin
    goal = _Goal(costing, limits, fill, tolerance, generator)
    fitting = _shrink(origin, goal)
    if fitting is None:
        return None
    if "memory" in limits.values:
        fitting = _give_back(fitting, origin, goal)
    return _grow(fitting, origin, top, goal)


@dataclass(frozen=True, eq=False)
class _Goal:
    """What a repair aims at; fractions are relative to ``fill`` x the limits, so that <= 1 fits."""

    costing: Costing
    limits: Limits
    fill: float
    tolerance: float
    rng: np.random.Generator

    def shares(self, matrix: Ints) -> Floats:
        """``(N, budgets)``: share of each allowance that the rows take."""
        costs = self.costing(matrix)
        return np.stack([costs[name] / (limit * self.fill) for name, limit in self.limits.values.items()], axis=1)

    def fractions(self, matrix: Ints) -> Floats:
        """``(N,)``: the largest share of each row."""
        return self.shares(matrix).max(axis=1)  # type: ignore[no-any-return]


def _shrink(origin: Ints, goal: _Goal) -> _Point | None:
    """The first point that fits on a random way down from ``origin``; ``origin`` itself where it fits."""
    movable = np.flatnonzero(origin)
    near = origin - np.eye(len(origin), dtype=np.int64)[movable]
    shares = goal.shares(np.vstack([origin, near]))
    excess = shares[0] - 1
    if (excess <= 0).all():
        return origin, float(shares[0].max())
    if not len(movable):
        return None
    broken = excess > 0
    # Share of what is still too much that one step of each variable takes away, summed over the broken budgets.
    relief = (np.maximum(shares[0] - shares[1:], 0)[:, broken] / excess[broken]).sum(axis=1)
    weights = relief + 0.005 * relief.mean() + 1e-12  # steps that seem useless go last: a later one may still help
    order = _order(movable, origin[movable], weights, goal.rng)
    path = _path(origin, order, -1)
    marks = np.unique(np.linspace(0, len(order), min(_ROWS, len(order)) + 1).round().astype(np.int64))[1:]
    fits = goal.fractions(path[marks]) <= 1
    if not fits.any():
        return None
    end = int(np.argmax(fits))
    low, high = (int(marks[end - 1]) + 1 if end else 1), int(marks[end])
    inner = path[low : high + 1]
    fractions = goal.fractions(inner)
    first = int(np.argmax(fractions <= 1))
    return inner[first], float(fractions[first])


def _give_back(fitting: _Point, origin: Ints, goal: _Goal) -> _Point:
    """Step what the way down took back up wherever that still fits, until no single step of it does."""
    point, fraction = fitting
    unit = np.eye(len(point), dtype=np.int64)
    for _ in range(4 * _ROUNDS):
        lost = np.flatnonzero(point < origin)
        usable = lost[goal.fractions(point + unit[lost]) <= 1] if len(lost) else lost
        if not len(usable):
            break
        point, fraction = _climb(point, origin, origin, usable, goal)
    return point, fraction


def _grow(fitting: _Point, origin: Ints, top: Ints, goal: _Goal) -> Ints:
    """Step up at random while everything fits, until the tightest budget is used to within the tolerance."""
    point, fraction = fitting
    unit = np.eye(len(point), dtype=np.int64)
    for _ in range(_ROUNDS):
        open_ = np.flatnonzero(point < top)
        if fraction >= 1 - goal.tolerance or not len(open_):
            break
        usable = open_[goal.fractions(point + unit[open_]) <= 1]
        if len(usable):
            point, fraction = _climb(point, origin, top, usable, goal)
        elif (swapped := _swap(point, top, fraction, goal)) is not None:
            point, fraction = swapped
        else:
            break
    return point


def _climb(point: Ints, origin: Ints, top: Ints, usable: Ints, goal: _Goal) -> _Point:
    """Up a random path over the ``usable`` variables, each of which fits when stepped alone: as far as it fits."""
    lost = np.where(point < origin, 4.0, 1.0)[usable]  # give back first what the repair itself took
    order = _order(usable, (top - point)[usable], lost, goal.rng)
    path = _path(point, order, 1)
    marks = np.unique(np.geomspace(1, len(order), min(_ROWS, len(order))).round().astype(np.int64))
    fractions = goal.fractions(path[marks])
    last = int(np.flatnonzero(fractions <= 1)[-1])  # there is one: the first step fits
    low, high = int(marks[last]), int(marks[last + 1]) if last + 1 < len(marks) else int(marks[last])
    if high - low <= 1:
        return path[low], float(fractions[last])
    inner = low + np.unique(np.linspace(0, high - low - 1, min(_ROWS, high - low)).round().astype(np.int64))
    fractions = goal.fractions(path[inner])
    last = int(np.flatnonzero(fractions <= 1)[-1])
    return path[inner[last]], float(fractions[last])


def _swap(point: Ints, top: Ints, fraction: float, goal: _Goal) -> _Point | None:
    """One variable down and another up, where that fits and uses more; None where no exchange tried does."""
    down, up = np.flatnonzero(point > 0), np.flatnonzero(point < top)
    if not len(down) or not len(up):
        return None
    unit = np.eye(len(point), dtype=np.int64)
    tried = point - unit[goal.rng.choice(down, _SWAPS)] + unit[goal.rng.choice(up, _SWAPS)]
    shares = goal.fractions(tried)
    shares[shares > 1] = -1
    best = int(np.argmax(shares))
    return (tried[best], float(shares[best])) if shares[best] > fraction else None


def _order(variables: Ints, counts: Ints, weights: Floats, rng: np.random.Generator) -> Ints:
    """A random sequence in which each of ``variables`` appears ``counts`` times, heavier ones earlier.

    The k-th step of a variable weighs 1/k of its first, or the heaviest would be taken to its end before the others
    are touched. Keys Exp(1)/weight sort into a weighted sample without replacement (Efraimidis and Spirakis 2006).
    """
    tokens = np.repeat(np.arange(len(variables)), counts)
    step = np.arange(len(tokens)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    keys = rng.exponential(size=len(tokens)) * step / weights[tokens]
    return variables[tokens[np.argsort(keys)]]


def _path(start: Ints, order: Ints, sign: int) -> Ints:
    """``(steps + 1, variables)``: the points met when the variables of ``order`` are stepped one after another."""
    steps = np.zeros((len(order) + 1, len(start)), dtype=np.int64)
    steps[np.arange(1, len(order) + 1), order] = sign
    return start + np.cumsum(steps, axis=0)
