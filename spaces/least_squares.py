"""Non-negative least squares in relative error, cross-validation and rank correlation, in numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_FOLDS = 8


def fit_relative(columns: Floats, ms: Floats, penalty: float) -> Floats:
    """Non-negative weights ``(features,)`` that minimise relative squared error + penalty on the scaled weights."""
    relative = columns / ms[:, None]
    scale = np.sqrt((relative**2).sum(axis=0))
    scale[scale == 0] = np.inf  # a feature that never occurs gets weight 0
    scaled = relative / scale
    rows = np.concatenate([scaled, np.sqrt(penalty) * np.eye(columns.shape[1])])
    target = np.concatenate([np.ones(len(ms)), np.zeros(columns.shape[1])])
    weights: Floats = nnls(rows, target) / scale
    return weights


def nnls(rows: Floats, target: Floats) -> Floats:
    """``argmin |rows @ w - target|`` over ``w >= 0``: Lawson and Hanson, Solving Least Squares Problems (1974), 23.3.

    Args:
        rows: ``(m, n)``, of full column rank. target: ``(m,)``.

    Example:
        >>> nnls(np.eye(2), np.array([1.0, -1.0])).tolist()
        [1.0, 0.0]
    """
    gram, moment = rows.T @ rows, rows.T @ target
    weights = np.zeros(len(moment))
    free = np.zeros(len(moment), dtype=bool)
    tolerance = 1e-12 * max(1.0, float(np.abs(moment).max(initial=0.0)))
    for _ in range(10 * len(moment) + 10):
        slope = np.where(free, -np.inf, moment - gram @ weights)
        if free.all() or slope.max() <= tolerance:
            break
        free[int(slope.argmax())] = True
        while True:
            trial = np.zeros_like(weights)
            trial[free] = np.linalg.solve(gram[np.ix_(free, free)], moment[free])
            blocked = free & (trial <= 0)
            if not blocked.any():
                break
            step = (weights[blocked] / (weights[blocked] - trial[blocked])).min()
            weights += step * (trial - weights)
            free &= weights > tolerance
            weights[~free] = 0.0
        weights = trial
    return weights


def cross_validate(columns: Floats, ms: Floats, penalty: float) -> Floats:
    """Prediction of each measurement ``(N,)`` by a fit that did not see it; folds spread over the range of latency."""
    folds = np.empty(len(ms), dtype=np.int64)
    folds[np.argsort(ms, kind="stable")] = np.arange(len(ms)) % min(_FOLDS, len(ms))
    predicted = np.empty_like(ms)
    for fold in np.unique(folds):
        out = folds == fold
        predicted[out] = columns[out] @ fit_relative(columns[~out], ms[~out], penalty)
    return predicted


def spearman(a: Floats, b: Floats) -> float:
    """Rank correlation in -1..1, ties sharing their mean rank; 0 where one side is constant.

    Example:
        >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0]))
        0.5
    """
    ranks = []
    for values in (a, b):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[inverse])
    x, y = (r - r.mean() for r in ranks)
    norm = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return round(float((x * y).sum()) / norm, 12) if norm else 0.0
