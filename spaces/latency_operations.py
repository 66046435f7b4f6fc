"""Latency from single operations: a regression on what the runtime's profiler says of each, scaled to whole models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from niwaki.spaces.cost import Ints, LayerRow
from niwaki.spaces.latency_features import FEATURES, Columns, kind_of, traffic, up
from niwaki.spaces.least_squares import Floats, fit_relative, folds_of

_PENALTY = 1e-3
_FOLDS = 4
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, eq=False)
class Operations:
    """Milliseconds = weights x (predicted operations by kind, their number, sums of layer features).

    A profiler slows small operations down and rounds to microseconds, so its times say what is large and what is small;
    how they add up to the latency of a whole model is fitted to models measured without it. On held-out candidates
    this had 0.6 to 1 times the error of layer features alone, and 0.4 to 0.8 times that of the operations alone.

    Attributes:
        measured: names of the operations that the runtime was seen to spend time in; the others are fused away.
        trees: log(time / work) from the sizes of an operation.
        weights: of the columns that are summed.
        known: (place of an operation, digest of its sizes) -> milliseconds predicted before.
    """

    measured: frozenset[str]
    trees: Any
    weights: Mapping[str, float]
    known: dict[tuple[int, int], float] = field(default_factory=dict)

    @classmethod
    def fit(cls, layers: Sequence[LayerRow], ms: Floats, times: Mapping[str, Floats]) -> tuple[Operations, Floats]:
        """Fit to N candidates; also returns the held-out prediction ``(N,)`` of each (cross-validation).

        Args:
            layers: of the candidates.
            ms: ``(N,)``, of whole models.
            times: operation -> ``(N,)`` milliseconds by the profiler, NaN where a candidate does not have it.
        """
        folds, held_out = folds_of(ms, _FOLDS), np.empty_like(ms)
        for fold in np.unique(folds):
            out = folds == fold
            held_out[out] = cls._fitted(layers, ms, times, ~out).predict(layers)[out]
        return cls.whole(layers, ms, times), held_out

    @classmethod
    def whole(cls, layers: Sequence[LayerRow], ms: Floats, times: Mapping[str, Floats]) -> Operations:
        """Fit to all N candidates."""
        return cls._fitted(layers, ms, times, np.ones(len(ms), dtype=np.bool_))

    @classmethod
    def _fitted(cls, layers: Sequence[LayerRow], ms: Floats, times: Mapping[str, Floats], use: Any) -> Operations:
        from sklearn.ensemble import HistGradientBoostingRegressor

        rows = [row for row in layers if row.name in times]
        features, targets = [], []
        for place, row in enumerate(rows):
            known = use & np.isfinite(times[row.name]) & (times[row.name] > 0) & row.alive
            features.append(_sizes(row, place)[known])
            targets.append(np.log(times[row.name][known] / _work(row)[known]))
        trees = HistGradientBoostingRegressor(
            max_iter=300, max_leaf_nodes=15, min_samples_leaf=4, l2_regularization=0.1, random_state=0
        )
        with _one_thread():
            trees.fit(np.concatenate(features), np.concatenate(targets))
        model = cls(frozenset(row.name for row in rows), trees, {})
        columns = model._columns(layers)
        weights = fit_relative(np.stack(list(columns.values()), axis=1)[use], ms[use], _PENALTY)
        return cls(model.measured, trees, dict(zip(columns, weights.tolist(), strict=True)), model.known)

    def predict(self, layers: Sequence[LayerRow]) -> Floats:
        """Milliseconds of one batch, ``(N,)``."""
        return sum((self.weights.get(k, 0.0) * c for k, c in self._columns(layers).items()), np.zeros(1))

    def _columns(self, layers: Sequence[LayerRow]) -> Columns:
        """``(N,)`` each: predicted milliseconds by kind of operation, how many there are, sums of layer features."""
        columns = FEATURES["kernels"](layers) | {"operations": np.zeros(1)}
        rows = [row for row in layers if row.name in self.measured]
        for row, times in zip(rows, self._times(rows), strict=True):
            kind = f"ms.{kind_of(row)}"
            columns[kind] = columns.get(kind, np.zeros(1)) + np.where(row.alive, times, 0.0)
            columns["operations"] = columns["operations"] + row.alive
        return {name: np.broadcast_to(c, (len(layers[0].alive),)) for name, c in columns.items()}

    def _times(self, rows: Sequence[LayerRow]) -> list[Floats]:
        """``(N,)`` milliseconds of each operation; what was predicted once is remembered, the rest asked at one go."""
        found = [np.unique(_digest(row), return_index=True, return_inverse=True) for row in rows]
        asked: list[tuple[int, int]] = []
        sizes, works = [], []
        for place, (row, (digests, first, _)) in enumerate(zip(rows, found, strict=True)):
            new = np.array([(place, d) not in self.known for d in digests.tolist()], dtype=np.bool_)
            if new.any():
                asked += [(place, d) for d in digests[new].tolist()]
                sizes.append(_sizes(row, place)[first[new]])
                works.append(_work(row)[first[new]])
        if asked:
            with _one_thread():
                times = np.exp(self.trees.predict(np.concatenate(sizes))) * np.concatenate(works)
            self.known.update(zip(asked, times.tolist(), strict=True))
        return [
            np.array([self.known[place, d] for d in digests.tolist()])[back]
            for place, (digests, _, back) in enumerate(found)
        ]


def _one_thread() -> AbstractContextManager[Any]:
    """The data are small: threads that wait for one another on busy cores take a hundred times as long."""
    return threadpool_limits(limits=1, user_api="openmp")  # type: ignore[no-any-return]


def _digest(row: LayerRow) -> Ints:
    """``(N,)``: equal where all sizes are (up to collisions of 64 bits)."""
    mixed = np.zeros(len(row.alive), dtype=np.uint64)
    for column in (row.positions, row.inputs, row.outputs, row.groups, row.macs, row.weights):
        mixed = (mixed + column.astype(np.uint64)) * _MIX
        mixed ^= mixed >> np.uint64(29)
    return mixed.view(np.int64)


def _work(row: LayerRow) -> Floats:
    """``(N,)``: a first guess of how long an operation takes, in MACs: padded to blocks, with its memory traffic."""
    padded = row.macs * (up(row.outputs) / np.maximum(row.outputs, 1))
    return np.asarray(padded + 8.0 * traffic(row) + 1000.0, dtype=np.float64)


def _sizes(row: LayerRow, place: int) -> Floats:
    """``(N, features)`` of one operation; ``place`` = where it stands in the network."""
    n = len(row.alive)
    per_group = np.maximum(row.groups, 1)
    columns = [
        np.full(n, place), np.full(n, row.kernel), np.full(n, row.stride), row.positions, row.inputs, row.outputs,
        row.inputs // per_group, row.inputs % 4, row.outputs % 4, row.inputs % 16, row.outputs % 16,
        up(row.inputs) // 16, up(row.outputs) // 16, up(row.outputs) // 16 % 4, row.macs, row.weights, traffic(row),
    ]  # fmt: skip
    return np.stack([np.broadcast_to(np.asarray(c, dtype=np.float64), (n,)) for c in columns], axis=1)
