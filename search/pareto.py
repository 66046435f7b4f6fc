"""Fronts: which points no other beats, in which order the rest follows, and how much they cover together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from niwaki.search.costing import Floats, Ints

_BLOCK = 512  # rows compared at once: bounds the memory at BLOCK x front x M


def non_dominated(points: Any) -> NDArray[np.bool_]:
    """Which rows no other row dominates (at most as large everywhere and smaller somewhere).

    Args:
        points: ``(N, M)``, every column minimised.

    Returns:
        ``(N,)`` bool. Rows with a NaN are never on the front and dominate nothing; equal rows are all kept.

    Example:
        >>> non_dominated([[1, 3], [2, 2], [2, 3], [2, 2], [0, float("nan")]]).tolist()
        [True, True, False, True, False]
    """
    table = _table(points)
    valid = ~np.isnan(table).any(axis=1)
    rows, place = np.unique(table[valid], axis=0, return_inverse=True)
    keep = np.zeros(len(rows), dtype=bool)
    # In lexicographic order nothing is dominated by what comes later: each block meets the front so far and itself.
    for start in range(0, len(rows), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(rows)))
        block = block[_below(rows[keep], rows[block]) == 0]
        keep[block[_below(rows[block], rows[block]) == 1]] = True
    front = np.zeros(len(table), dtype=bool)
    front[valid] = keep[place.reshape(-1)]
    return front


def ranks(points: Any) -> Ints:
    """``(N,)``: 0 for the front, 1 for the front of what is left, and so on; rows with a NaN come last, together.

    Non-dominated sorting of NSGA-II (Deb et al. 2002, section III.A).

    Example:
        >>> ranks([[1, 3], [2, 2], [2, 3], [3, 3]]).tolist()
        [0, 0, 1, 2]
    """
    table = _table(points)
    broken = np.isnan(table).any(axis=1)
    rows, place = np.unique(table[~broken], axis=0, return_inverse=True)
    found = np.zeros(len(rows), dtype=np.int64)
    # Equal rows are one now, and in lexicographic order whatever dominates a row stands before it: a rank is one more
    # than the largest of those. One pass, however many fronts there are; ranking by one figure alone makes N of them.
    for i in range(1, len(rows)):
        above = np.logical_and.reduce([column[:i] <= column[i] for column in rows.T[1:]], axis=0)
        found[i] = (found[:i] + 1)[above].max(initial=0) if rows.shape[1] > 1 else i
    result = np.full(len(table), found.max(initial=-1) + 1, dtype=np.int64)
    result[~broken] = found[place.reshape(-1)]
    return result


def hypervolume(points: Any, reference: Any) -> float:
    """Exact volume between the points and ``reference``, every column minimised.

    Points that do not lie below the reference in every column, and rows with a NaN, add nothing. Sweeps the last
    column in slabs and recurses on the others: fine for the fronts of a run (2-4 columns, hundreds of points).

    Args:
        points: ``(N, M)``.
        reference: ``(M,)``, finite.

    Example:
        >>> hypervolume([[1, 2], [2, 1]], [3, 3])
        3.0
    """
    table, corner = _table(points), np.asarray(reference, dtype=np.float64)
    if corner.shape != (table.shape[1],) or not np.isfinite(corner).all():
        raise ValueError(f"hypervolume: expected a finite reference of {table.shape[1]} figures, got {reference!r}")
    inside = table[(table < corner).all(axis=1)]
    return _volume(inside, corner)


def _below(some: Floats, rows: Floats) -> Ints:
    """``(N,)``: how many of ``some`` are at most as large as each of the ``rows`` everywhere."""
    return (some[None] <= rows[:, None]).all(axis=2).sum(axis=1)  # type: ignore[no-any-return]


def _volume(points: Floats, corner: Floats) -> float:
    if not len(points):
        return 0.0
    if points.shape[1] == 1:
        return float(corner[0] - points.min())
    points = np.unique(points[non_dominated(points)], axis=0)
    points = points[np.argsort(points[:, -1], kind="stable")]
    heights = np.diff(np.append(points[:, -1], corner[-1]))
    return sum(
        _volume(points[: i + 1, :-1], corner[:-1]) * float(height) for i, height in enumerate(heights) if height > 0
    )


def _table(points: Any) -> Floats:
    table = np.asarray(points, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"points: expected an array of shape (N, M), got {table.shape}")
    return table
