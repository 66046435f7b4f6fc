"""Aim just under the budget, measure beside the teacher, correct, aim again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from niwaki.search.costing import Costing, Floats, Ints, Limits, SearchSpace
from niwaki.spaces.sparsity import Sparsity
from niwaki.spaces.types import Candidate

Bools = NDArray[np.bool_]
Measure = Callable[[Sequence[Candidate]], Mapping[str, float]]
"""Candidates -> key -> milliseconds, on the scale of the latency model's anchor."""
Worth = Callable[[Ints], Floats]
"""``(N, variables)`` choice indices -> ``(N,)``: how good candidates are before any training; larger is better."""
_ENOUGH = 0.95
"""Fraction of the limit from which on a candidate is left as it is."""
_NOTHING = 1e-9
_NEAR = 0.15
"""A measurement nearer to the limit than this is corrected by widths alone."""
_FULL = 0.99
"""Fraction of the limits that exchanges try to reach, in so many rounds of so many draws."""
_EXCHANGES, _DRAWN = 8, 256
_AIMS = (0.96, 0.975, 0.99, 1.005)
"""Fractions of the limit that are aimed at together: predictions and measurements are a few percent apart."""


@dataclass(frozen=True)
class Aimed:
    """What aiming ended with.

    Attributes:
        candidate: the one that comes nearest to the limit from below; of those that break it the nearest, if all do.
        measured_ms: its latency, measured beside the teacher.
        tries: (predicted, measured) milliseconds of every candidate measured, in order.
    """

    candidate: Candidate
    measured_ms: float
    tries: tuple[tuple[float, float], ...]


def aim(start: Candidate, limits: Limits, costing: Costing, worth: Worth, measure: Measure, tries: int = 4) -> Aimed:
    """Move a candidate until its *measured* latency lies just under the limit, and all other budgets hold.

    Predictions decide where to go; what measurements say of the last ones (measured / predicted) corrects the next, of
    which several at a time are measured, aimed at a little less and a little more. Latency that is left is spent where
    it buys the most ``worth`` per millisecond, latency that is missing is taken where it costs the least.

    Args:
        start: where to begin; it stays as it is if it measures within 95 to 100 % of the limit.
        limits: with a latency, in ms.
        costing: with a latency model.
        worth: of candidates.
        measure: of candidates.
        tries: most rounds of measuring; the first one is of ``start`` alone.

    Raises:
        ValueError: no latency limit.
    """
    limit = limits.values.get("latency")
    if limit is None:
        raise ValueError("aim: limits hold no latency")
    space = costing.space
    volley, seen = [np.asarray(space.encode(start), dtype=np.int64)], dict[str, _Shot]()
    for _ in range(tries):
        shots = _fire(volley, seen, costing, measure)
        seen |= shots
        best = min(seen.values(), key=lambda s: s.miss(limit))
        if not shots or (best.miss(limit) <= (False, (1 - _ENOUGH) * limit) and _fits(best, limits, costing)):
            break
        correction = float(np.median([s.measured / s.predicted for s in shots.values()]))
        aims = [replace(limits, values={**limits.values, "latency": limit * a / correction}) for a in _AIMS]
        volley = [_nearer(best.point, aim, costing, worth, abs(best.measured / limit - 1) < _NEAR) for aim in aims]
    return Aimed(best.candidate, best.measured, tuple((s.predicted, s.measured) for s in seen.values()))


@dataclass(frozen=True, eq=False)
class _Shot:
    """A candidate that was measured: milliseconds."""

    point: Ints
    candidate: Candidate
    predicted: float
    measured: float

    def miss(self, limit: float) -> tuple[bool, float]:
        """Those under the limit come first, the nearest of them foremost."""
        return self.measured > limit, abs(self.measured - limit)


def _fire(volley: Sequence[Ints], seen: Mapping[str, _Shot], costing: Costing, measure: Measure) -> dict[str, _Shot]:
    """Measure those of the points that nobody has measured, in the same rounds."""
    space = costing.space
    made = [(point, space.canonical(space.decode(point.tolist()))) for point in volley]
    new = {c.key: (point, c) for point, c in made if c.key not in seen}
    if not new:
        return {}
    predicted = costing(np.stack([point for point, _ in new.values()]))["latency"]
    measured = measure([c for _, c in new.values()])
    return {
        key: _Shot(point, candidate, float(ms), measured[key])
        for (key, (point, candidate)), ms in zip(new.items(), predicted, strict=True)
    }


def _fits(shot: _Shot, limits: Limits, costing: Costing) -> bool:
    return limits.fits(replace(costing.cost(shot.candidate), latency_ms=shot.measured))


def _nearer(point: Ints, limits: Limits, costing: Costing, worth: Worth, steady: bool) -> Ints:
    """``steady``: by widths alone if they suffice; blocks that come and go shift what the last measurement taught."""
    if steady:
        movable = np.array([v.kind != "depth" for v in costing.space.variables])
        found = spend(point, limits, costing, worth, movable)
        if limits.fraction(costing(found[None]))[0] <= 1:
            return found
    return spend(point, limits, costing, worth)


def spend(point: Ints, limits: Limits, costing: Costing, worth: Worth, movable: Bools | None = None) -> Ints:
    """Step down by what is worth least per relief until everything fits, then up by what is worth most per cost.

    Args:
        point: ``(variables,)`` choice indices.
        limits: what has to hold, as predicted.
        movable: ``(variables,)``, which may step; None: all.

    Returns:
        ``(variables,)`` choice indices; where no way down fits, the point at which it ended.
    """
    point = fitted(point, limits, costing, worth, movable)
    return _exchanged(point, limits, costing, worth, _columns(point, movable))


def fitted(point: Ints, limits: Limits, costing: Costing, worth: Worth, movable: Bools | None = None) -> Ints:
    """:func:`spend` without its last step, which fills a budget whatever that is worth."""
    sizes = np.array([len(v.choices) for v in costing.space.variables], dtype=np.int64)
    columns = _columns(point, movable)
    point = point.copy()
    while (share := float(limits.fraction(costing(point[None]))[0])) > 1:
        near = _moves(point, columns, sizes, up=False)
        gains = share - limits.fraction(costing(near))
        if not (gains > _NOTHING).any():
            if not len(near):
                break
            gains = np.ones(len(near))  # a plateau in every direction: what costs least worth leads off it
        losses = worth(point[None])[0] - worth(near)
        point = near[int(np.argmin(np.where(gains > _NOTHING, losses / np.maximum(gains, _NOTHING), np.inf)))]
    while len(near := _moves(point, columns, sizes, up=True)):
        fits = limits.fraction(costing(near)) <= 1
        if not fits.any():
            break
        paid = np.maximum(_shares(near, limits, costing) - _shares(point[None], limits, costing), _NOTHING)
        gains = (worth(near) - worth(point[None])[0]) / paid
        point = near[int(np.argmax(np.where(fits, gains, -np.inf)))]
    return point


def _shares(matrix: Ints, limits: Limits, costing: Costing) -> Floats:
    """``(N,)``: what all the budgets together are charged, each as a share of its limit."""
    costs = costing(matrix)
    return np.sum([costs[name] / limit for name, limit in limits.values.items()], axis=0, initial=0.0)  # type: ignore[no-any-return]


def _columns(point: Ints, movable: Bools | None) -> Ints:
    return np.flatnonzero(np.ones(len(point), dtype=np.bool_) if movable is None else movable)


def _exchanged(point: Ints, limits: Limits, costing: Costing, worth: Worth, columns: Ints) -> Ints:
    """Where every step up is too high a stair: two variables at other choices, drawn at random, that use more."""
    rng = np.random.default_rng(0)
    sizes = np.array([len(v.choices) for v in costing.space.variables], dtype=np.int64)
    for _ in range(_EXCHANGES if len(columns) > 1 else 0):
        share = float(limits.fraction(costing(point[None]))[0])
        if not share < _FULL:
            break
        pairs = rng.permuted(np.repeat(columns[None], _DRAWN, axis=0), axis=1)[:, :2]
        near = np.repeat(point[None], _DRAWN, axis=0)
        for side in range(2):
            near[np.arange(_DRAWN), pairs[:, side]] = rng.integers(0, sizes[pairs[:, side]])
        shares = limits.fraction(costing(near))
        better = (shares <= 1) & (shares > share)
        if not better.any():
            break
        full = better & (shares >= _FULL)
        rank = np.where(full, worth(near), -np.inf) if full.any() else np.where(better, shares, -np.inf)
        point = near[int(np.argmax(rank))]
    return point


def _moves(point: Ints, columns: Ints, sizes: Ints, up: bool) -> Ints:
    """``(M, variables)``: one variable at any other choice above, or below; one step may cross no stair, two may."""
    ends = [range(point[c] + 1, sizes[c]) if up else range(point[c]) for c in columns]
    near = np.repeat(point[None], sum(map(len, ends)), axis=0)
    near[np.arange(len(near)), np.repeat(columns, [len(e) for e in ends])] = [i for e in ends for i in e]
    return near


def retained(space: SearchSpace, scores: Mapping[str, Tensor]) -> Worth:
    """Worth as the sum over the variables of log(share kept): of the criterion's scores of a group, of the blocks of a
    stage, of the weights of a layer. The first units that a group loses cost little, the last ones all it has.

    Args:
        scores: group -> (units,), larger = keep; they are shifted to start at 0 within a group.
    """
    tables = []
    for variable in space.variables:
        counts = np.array([amount(choice) for choice in variable.choices], dtype=np.float64)
        share = counts / counts.max()
        if variable.kind == "width" and variable.name in scores:
            ranked = np.sort(scores[variable.name].double().numpy())[::-1]
            total = np.cumsum(ranked - ranked.min() + 1e-3 * (np.ptp(ranked) + 1e-12))
            share = total[counts.astype(np.int64) - 1] / total[-1]
        tables.append(np.log(np.maximum(share, 1e-3)))

    def worth(matrix: Ints) -> Floats:
        columns = [table[matrix[:, i]] for i, table in enumerate(tables)]
        return np.sum(columns, axis=0) if columns else np.zeros(len(matrix))

    return worth


def amount(choice: int | str) -> float:
    """Units, blocks, or the share of weights that a sparsity token leaves."""
    if isinstance(choice, int):
        return float(max(choice, 0.5))
    token = Sparsity.parse(choice)
    return token.n / token.m if token.m else 1.0 - token.ratio
