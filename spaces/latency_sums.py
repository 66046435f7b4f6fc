"""Latency as a non-negative sum of layer features: for targets that have no profiler, and with few measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from niwaki.spaces.cost import LayerRow
from niwaki.spaces.errors import InputError
from niwaki.spaces.latency_features import FEATURES, Columns
from niwaki.spaces.least_squares import Floats, cross_validate, fit_relative

_PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2)


@dataclass(frozen=True)
class Sums:
    """Milliseconds = sum of weight x feature.

    Attributes:
        features: which set, a key of ``FEATURES``.
        weights: feature -> milliseconds per unit of it (features never seen at work are absent).
    """

    features: str
    weights: Mapping[str, float]

    @classmethod
    def fit(cls, layers: Sequence[LayerRow], ms: Floats) -> tuple[Sums, Floats]:
        """Fit to N measured candidates; also returns the held-out prediction ``(N,)`` of each (cross-validation).

        Non-negative least squares in *relative* error with a small ridge penalty. Features and penalty are those with
        the least cross-validated error. Overhead is charged per layer, not as a constant: dropping blocks is then
        predicted right (a constant is 3-8 % off for models shallower than the calibrated ones).
        """
        best: tuple[float, str, float, Floats] | None = None
        for name, build in FEATURES.items():
            columns = _matrix(build(layers))
            for penalty in _PENALTIES:
                held_out = cross_validate(columns, ms, penalty)
                score = float(np.abs(held_out / ms - 1).mean())
                if best is None or score < best[0] * 0.98:  # later sets are larger: they must be clearly better
                    best = score, name, penalty, held_out
        assert best is not None
        _, name, penalty, held_out = best
        features = FEATURES[name](layers)
        weights = fit_relative(_matrix(features), ms, penalty).tolist()
        return cls(name, dict(zip(features, weights, strict=True))), held_out

    def predict(self, layers: Sequence[LayerRow]) -> Floats:
        """Milliseconds of one batch, ``(N,)``."""
        features = FEATURES[self.features](layers)
        return sum((self.weights.get(k, 0.0) * column for k, column in features.items()), np.zeros(1))

    def to_json(self) -> dict[str, Any]:
        return {"features": self.features, "weights": dict(self.weights)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sums:
        if data["features"] not in FEATURES:
            raise InputError(f"latency.json: unknown features {data['features']!r}; valid: {', '.join(FEATURES)}")
        return cls(data["features"], {str(name): finite(weight) for name, weight in data["weights"].items()})


def finite(value: Any) -> float:
    """``value`` as a float; ValueError where it is none, or NaN or infinite."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a finite number")
    return number


def _matrix(columns: Columns) -> Floats:
    """``(N, features)``."""
    return np.stack(list(columns.values()), axis=1)
