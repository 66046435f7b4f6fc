"""The candidate of least summed harm under all budgets at once, allotted without training it.

It is a multiple-choice knapsack with several constraints, except that its costs are no sums: MACs multiply
neighbouring widths, latency has stairs, memory is a maximum. So it is solved by moves that are costed exactly, many at
a time: greedy steps down and up again (:func:`niwaki.search.aim.fitted`), then exchanges until none helps.
"""

from __future__ import annotations

import numpy as np

from niwaki.search.aim import Worth, fitted
from niwaki.search.costing import Costing, Floats, Ints, Limits
from niwaki.spaces import Candidate

_FEW = 1500
"""Single changes up to which all pairs of them are looked at; beyond, only changes by 1, 2, 4, 8... choices."""
_TRIED = 2048
"""Pairs costed exactly in one round: those that promise most."""
_SLACK = 0.02
"""Share of a limit by which a pair may seem to break it: the costs of two changes do not add up exactly."""
_GAIN = 1e-12
_STARTS = (1.0, 0.75, 0.5, 0.25, 0.0)
"""Shares of the way from the smallest candidate to the largest from which a solution is sought; the best is taken."""


def knapsack(costing: Costing, limits: Limits, worth: Worth) -> Candidate | None:
    """The candidate of most worth found within the limits; None where nothing on the way down fits.

    Deterministic. Optimal on nearly all small cases (see the tests), with no guarantee on large ones.

    Args:
        costing: of the space.
        limits: which hold together.
        worth: ``-harm``, as :meth:`niwaki.search.sensitivity.Sensitivity.worth`; exchanges are found best where it is
            a sum over the variables.

    Example:
        >>> import torch
        >>> from niwaki.spaces import derive
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        >>> costing = Costing(derive(model, torch.randn(2, 8)))
        >>> found = knapsack(costing, Limits({"macs": 200.0}, {}), lambda m: m.sum(axis=1).astype(float))
        >>> found.widths, costing.cost(found).macs
        ({'0': 16}, 192)
    """
    space = costing.space
    top = np.array([len(v.choices) - 1 for v in space.variables], dtype=np.int64)
    best: Ints | None = None
    for share in _STARTS:
        point = fitted((share * top).round().astype(np.int64), limits, costing, worth)
        if limits.fraction(costing(point[None]))[0] > 1:
            continue
        point = exchanged(point, limits, costing, worth)
        if best is None or worth(point[None])[0] > worth(best[None])[0]:
            best = point
    return None if best is None else space.canonical(space.decode(best.tolist()))


def exchanged(point: Ints, limits: Limits, costing: Costing, worth: Worth) -> Ints:
    """Change one or two variables at a time while everything fits and worth rises; ``point`` fits already."""
    sizes = np.array([len(v.choices) for v in costing.space.variables], dtype=np.int64)
    while True:
        near, columns = _changes(point, sizes)
        rows = _promising(point, near, columns, limits, costing, worth)
        rows = rows[limits.fraction(costing(rows)) <= 1] if len(rows) else rows
        if not len(rows):
            return point
        gains = worth(rows) - worth(point[None])[0]
        best = int(np.argmax(gains))
        if gains[best] <= _GAIN:
            return point
        point = rows[best]


def _changes(point: Ints, sizes: Ints) -> tuple[Ints, Ints]:
    """``(M, variables)``: one variable at another choice, and ``(M,)`` which one it is."""
    ends = [np.setdiff1d(np.arange(n), [i]) for i, n in zip(point, sizes, strict=True)]
    if sum(map(len, ends)) > _FEW:
        ends = [e[np.bitwise_count(np.abs(e - i)) == 1] for e, i in zip(ends, point, strict=True)]
    columns = np.repeat(np.arange(len(point)), [len(e) for e in ends])
    near = np.repeat(point[None], len(columns), axis=0)
    near[np.arange(len(columns)), columns] = np.concatenate(ends) if len(columns) else []
    return near, columns


def _promising(
    point: Ints, near: Ints, columns: Ints, limits: Limits, costing: Costing, worth: Worth
) -> Ints:
    """Single changes that gain, and the pairs that gain most and fit as far as the sum of their costs can tell."""
    if not len(near):
        return near
    gains = worth(near) - worth(point[None])[0]
    room, taken = _room(point, near, limits, costing)
    ups, downs = np.flatnonzero(gains > _GAIN), np.flatnonzero(gains <= _GAIN)
    pairs = gains[ups][:, None] + gains[downs][None]
    fits = (pairs > _GAIN) & (columns[ups][:, None] != columns[downs][None])
    for share, spare in zip(taken, room, strict=True):
        fits &= share[ups][:, None] + share[downs][None] <= spare + _SLACK
    flat = np.flatnonzero(fits)
    order = flat[np.argsort(-pairs.ravel()[flat], kind="stable")[:_TRIED]]
    first, second = ups[order // max(len(downs), 1)], downs[order % max(len(downs), 1)]
    both = near[first].copy()
    both[np.arange(len(both)), columns[second]] = near[second, columns[second]]
    return np.concatenate([near[ups], both])


def _room(point: Ints, near: Ints, limits: Limits, costing: Costing) -> tuple[Floats, Floats]:
    """``(budgets,)`` shares that are left, and ``(budgets, M)`` shares that each change takes."""
    names = list(limits.values)
    costs = costing(np.concatenate([point[None], near]))
    shares = np.array([costs[name] / limits.values[name] for name in names]).reshape(len(names), len(near) + 1)
    return 1 - shares[:, 0], shares[:, 1:] - shares[:, :1]
