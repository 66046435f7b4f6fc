"""Fronts: which points no other beats, in which order the rest follows, and how much they cover together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from niwaki.search.costing import Floats, Ints

_BLOCK = 512  # rows compared at once: bounds the memory at BLOCK x N x M


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
    valid = np.flatnonzero(~np.isnan(table).any(axis=1))
    front = np.zeros(len(table), dtype=bool)
    for start in range(0, len(valid), _BLOCK):
        rows = valid[start : start + _BLOCK]
        below = (table[valid][None] <= table[rows][:, None]).all(axis=2)
        less = (table[valid][None] < table[rows][:, None]).any(axis=2)
        front[rows] = ~np.any(below & less, axis=1)
    return front


def ranks(points: Any) -> Ints:
    """``(N,)``: 0 for the front, 1 for the front of what is left, and so on; rows with a NaN come last, together.

    Non-dominated sorting of NSGA-II (Deb et al. 2002, section III.A).

    Example:
        >>> ranks([[1, 3], [2, 2], [2, 3], [3, 3]]).tolist()
        [0, 0, 1, 2]
    """
    table = _table(points)
    result = np.zeros(len(table), dtype=np.int64)
    broken = np.any(np.isnan(table), axis=1)
    left = np.flatnonzero(~broken)
    rank = 0
    while len(left):
        front = non_dominated(table[left])
        result[left[front]] = rank
        left = left[~front]
        rank += 1
    result[broken] = rank
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
