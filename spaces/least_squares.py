"""Non-negative least squares in relative error, cross-validation and rank correlation."""

from __future__ import annotations

import numpy as np
import scipy.optimize
import scipy.stats
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_FOLDS = 8


def fit_relative(columns: Floats, ms: Floats, penalty: float) -> Floats:
    """Non-negative weights ``(features,)`` that minimise relative squared error + penalty on the scaled weights."""
    relative = columns / ms[:, None]
    scale = np.sqrt((relative**2).sum(axis=0))
    scale[scale == 0] = np.inf  # a feature that never occurs gets weight 0
    rows = np.concatenate([relative / scale, np.sqrt(penalty) * np.eye(columns.shape[1])])
    target = np.concatenate([np.ones(len(ms)), np.zeros(columns.shape[1])])
    weights: Floats = scipy.optimize.nnls(rows, target)[0] / scale
    return weights


def folds_of(ms: Floats, folds: int = _FOLDS) -> Ints:
    """``(N,)``: the fold of each measurement; every fold is spread over the whole range of latency."""
    found = np.empty(len(ms), dtype=np.int64)
    found[np.argsort(ms, kind="stable")] = np.arange(len(ms)) % min(folds, len(ms))
    return found


def cross_validate(columns: Floats, ms: Floats, penalty: float) -> Floats:
    """Prediction of each measurement ``(N,)`` by a fit that did not see it."""
    folds, predicted = folds_of(ms), np.empty_like(ms)
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
    if len(np.unique(a)) < 2 or len(np.unique(b)) < 2:
        return 0.0
    return round(float(scipy.stats.spearmanr(a, b).statistic), 12)
