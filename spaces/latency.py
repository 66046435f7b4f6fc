"""Latency of candidates, predicted from their layers by a model that is fitted to measurements on the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from niwaki.spaces.cost import LayerRow
from niwaki.spaces.errors import InputError
from niwaki.spaces.latency_features import FEATURES, Columns
from niwaki.spaces.least_squares import cross_validate, fit_relative, spearman

Floats = NDArray[np.float64]
_PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2)


class HasLayers(Protocol):
    """The part of a Space that the model uses."""

    @property
    def digest(self) -> str: ...

    def layers(self, matrix: Any) -> Sequence[LayerRow]: ...


@dataclass(frozen=True)
class PredictionError:
    """How far predictions are from measurements that the fit did not see (cross-validated).

    Attributes:
        median: median absolute relative error; 0.02 = 2 %.
        p90: its 90th percentile.
        spearman: rank correlation of predicted and measured latency.
        samples: measured candidates.
    """

    median: float
    p90: float
    spearman: float
    samples: int


@dataclass(frozen=True)
class LatencyModel:
    """Milliseconds as a non-negative sum of layer features; see :meth:`fit`.

    Attributes:
        space: gives the layers of candidates.
        features: which set of features the fit chose, a key of ``FEATURES``.
        weights: feature -> milliseconds per unit of the feature (features never seen at work are absent).
        error: cross-validated.
        anchor_ms: the teacher, measured in the same rounds.
        source: target, machine, and whatever else says where the measurements come from.
        samples: the measurements: ``{"candidate": indices, "ms": measured}``.
    """

    space: HasLayers
    features: str
    weights: Mapping[str, float]
    error: PredictionError
    anchor_ms: float
    source: Mapping[str, Any] = field(default_factory=dict)
    samples: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def fit(
        cls,
        space: HasLayers,
        matrix: Any,
        ms: Sequence[float],
        anchor_ms: float,
        source: Mapping[str, Any] | None = None,
    ) -> LatencyModel:
        """Fit to measured candidates.

        Non-negative least squares in *relative* error with a small ridge penalty. Features and penalty are those with
        the least cross-validated error. Overhead is charged per layer, not as a constant: dropping blocks is then
        predicted right (a constant is 3-8 % off for models shallower than the calibrated ones).

        Args:
            matrix: ``(N, variables)`` int64 choice indices, as for ``Space.costs``; N >= 4, 24 or more are better.
            ms: N measured latencies of one batch in milliseconds, all > 0.
            anchor_ms: the teacher's, measured in the same rounds.

        Raises:
            InputError: fewer than 4 measurements, or one that is not a positive number.
        """
        measured = np.asarray(ms, dtype=np.float64)
        if len(measured) < 4 or not (np.isfinite(measured) & (measured > 0)).all():
            raise InputError(f"latency: at least 4 positive measurements are needed, got {list(ms)}")
        layers = space.layers(matrix)
        best: tuple[float, str, float, Floats] | None = None
        for name, build in FEATURES.items():
            columns = _matrix(build(layers))
            for penalty in _PENALTIES:
                held_out = cross_validate(columns, measured, penalty)
                score = float(np.abs(held_out / measured - 1).mean())
                if best is None or score < best[0] * 0.98:  # later sets are larger: they must be clearly better
                    best = score, name, penalty, held_out
        assert best is not None
        _, name, penalty, held_out = best
        features = FEATURES[name](layers)
        weights = dict(zip(features, fit_relative(_matrix(features), measured, penalty).tolist(), strict=True))
        rows = tuple(
            {"candidate": [int(i) for i in row], "ms": float(m)} for row, m in zip(matrix, measured, strict=True)
        )
        return cls(space, name, weights, _error(held_out, measured), float(anchor_ms), dict(source or {}), rows)

    def predict(self, matrix: Any) -> Floats:
        """Milliseconds of one batch for each candidate: ``(N, variables)`` choice indices -> ``(N,)``."""
        features = FEATURES[self.features](self.space.layers(matrix))
        total: Floats = sum((self.weights.get(k, 0.0) * column for k, column in features.items()), np.zeros(1))
        return np.broadcast_to(total, (len(matrix),)).copy()

    def ratio(self, matrix: Any) -> Floats:
        """Predicted latency relative to the teacher's, ``(N,)``: it does not drift with the machine."""
        return self.predict(matrix) / self.anchor_ms

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "space": self.space.digest,
            "source": dict(self.source),
            "features": self.features,
            "weights": dict(self.weights),
            "anchor_ms": self.anchor_ms,
            "error": vars(self.error).copy(),
            "samples": [dict(s) for s in self.samples],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], space: HasLayers) -> LatencyModel:
        """Inverse of :meth:`to_json`; InputError where the file was fitted on another space or is damaged."""
        try:
            if data["space"] != space.digest:
                raise InputError(f"latency.json belongs to space {data['space']}, this one is {space.digest}")
            if data["features"] not in FEATURES:
                raise InputError(f"latency.json: unknown features {data['features']!r}; valid: {', '.join(FEATURES)}")
            return cls(
                space,
                data["features"],
                dict(data["weights"]),
                PredictionError(**data["error"]),
                float(data["anchor_ms"]),
                dict(data["source"]),
                tuple(data["samples"]),
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"latency.json is damaged: {type(error).__name__} {error}") from error


def _matrix(columns: Columns) -> Floats:
    """``(N, features)``."""
    return np.stack(list(columns.values()), axis=1)


def _error(predicted: Floats, measured: Floats) -> PredictionError:
    off = np.abs(predicted / measured - 1)
    return PredictionError(
        float(np.median(off)), float(np.quantile(off, 0.9)), spearman(predicted, measured), len(measured)
    )
