"""Latency of candidates, predicted from their operations by a model that is fitted to measurements on the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from niwaki.spaces.cost import LayerRow
from niwaki.spaces.errors import InputError
from niwaki.spaces.latency_operations import Operations
from niwaki.spaces.latency_sums import Sums, finite
from niwaki.spaces.least_squares import Floats, spearman

_ENOUGH = 16
"""Profiled candidates below which single operations are not learned from."""


class HasLayers(Protocol):
    """The part of a Space that the model uses."""

    @property
    def digest(self) -> str: ...

    def layers(self, matrix: Any) -> Sequence[LayerRow]: ...


class Predictor(Protocol):
    """Sizes of the operations of N candidates -> milliseconds ``(N,)``."""

    def predict(self, layers: Sequence[LayerRow]) -> Floats: ...


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

    @classmethod
    def of(cls, predicted: Floats, measured: Floats) -> PredictionError:
        """Both in milliseconds, ``(N,)``."""
        off = np.abs(predicted / measured - 1)
        return cls(
            float(np.median(off)), float(np.quantile(off, 0.9)), spearman(predicted, measured), len(measured)
        )  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """One measured candidate.

    Attributes:
        candidate: choice indices.
        ms: measured, of one batch.
        held_out: what a fit that did not see it predicts.
        operations: operation -> ms by the runtime's profiler; empty where the target has none.
    """

    candidate: tuple[int, ...]
    ms: float
    held_out: float = float("nan")
    operations: Mapping[str, float] = field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, Any]:
        return {
            "candidate": list(self.candidate), "ms": self.ms, "held_out": self.held_out,
            "operations": {name: float(f"{ms:.5g}") for name, ms in self.operations.items()},
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Sample:
        indices = tuple(int(i) for i in data["candidate"])
        operations = {str(name): finite(ms) for name, ms in data["operations"].items()}
        return cls(indices, finite(data["ms"]), finite(data["held_out"]), operations)


@dataclass(frozen=True, eq=False)
class LatencyModel:
    """Milliseconds of candidates; see :meth:`fit`.

    Attributes:
        space: gives the operations of candidates.
        method: ``operations`` (a regression on the runtime's profile) or ``sums`` (of layer features).
        samples: what it was fitted to.
        error: cross-validated.
        anchor_ms: the teacher, measured in the same rounds.
        source: target, machine, and whatever else says where the measurements come from.
    """

    space: HasLayers
    method: str
    samples: tuple[Sample, ...]
    error: PredictionError
    anchor_ms: float
    source: Mapping[str, Any] = field(default_factory=dict)
    sums: Sums | None = None

    @classmethod
    def fit(
        cls, space: HasLayers, samples: Sequence[Sample], anchor_ms: float, source: Mapping[str, Any] | None = None
    ) -> LatencyModel:
        """Fit to measured candidates, by the method with the smaller cross-validated error.

        Args:
            samples: 4 or more, 24 are better; each measured at a positive number of milliseconds.
            anchor_ms: the teacher's latency, measured in the same rounds.

        Raises:
            InputError: fewer than 4 measurements, or one that is not a positive number.
        """
        ms = np.array([s.ms for s in samples], dtype=np.float64)
        if len(ms) < 4 or not (np.isfinite(ms) & (ms > 0)).all():
            raise InputError(f"latency: at least 4 positive measurements are needed, got {ms.tolist()}")
        layers = space.layers(_matrix(samples))
        sums, held_out = Sums.fit(layers, ms)
        error, method = PredictionError.of(held_out, ms), "sums"
        if sum(bool(s.operations) for s in samples) >= _ENOUGH:
            _, other = Operations.fit(layers, ms, _times(samples))
            if np.abs(other / ms - 1).mean() < np.abs(held_out / ms - 1).mean():
                held_out, error, method = other, PredictionError.of(other, ms), "operations"
        known = tuple(
            Sample(s.candidate, s.ms, float(out), s.operations) for s, out in zip(samples, held_out, strict=True)
        )
        return cls(space, method, known, error, float(anchor_ms), dict(source or {}), sums)

    @cached_property
    def predictor(self) -> Predictor:
        """Fitted when it is first needed: trees are not kept in files, what they were grown from is."""
        if self.method == "sums" and self.sums is not None:
            return self.sums
        ms = np.array([s.ms for s in self.samples], dtype=np.float64)
        return Operations.whole(self.space.layers(_matrix(self.samples)), ms, _times(self.samples))

    def predict(self, matrix: Any) -> Floats:
        """Milliseconds of one batch for each candidate: ``(N, variables)`` choice indices -> ``(N,)``."""
        return np.broadcast_to(self.predictor.predict(self.space.layers(matrix)), (len(matrix),)).copy()

    def ratio(self, matrix: Any) -> Floats:
        """Predicted latency relative to the teacher's, ``(N,)``: it does not drift with the machine."""
        return self.predict(matrix) / self.anchor_ms

    def with_samples(self, more: Sequence[Sample]) -> LatencyModel:
        """Fitted again with more measurements, which must be on the scale of ``anchor_ms``."""
        source = {**self.source, "models": len(self.samples) + len(more)}
        return LatencyModel.fit(self.space, [*self.samples, *more], self.anchor_ms, source)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": 2, "space": self.space.digest, "source": dict(self.source), "method": self.method,
            "anchor_ms": self.anchor_ms, "error": vars(self.error).copy(),
            "sums": None if self.sums is None else self.sums.to_json(), "samples": [s.to_json() for s in self.samples],
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any], space: HasLayers) -> LatencyModel:
        """Inverse of :meth:`to_json`; InputError where the file was fitted on another space or is damaged."""
        try:
            if data["space"] != space.digest:
                raise InputError(f"latency.json belongs to space {data['space']}, this one is {space.digest}")
            if data["method"] not in ("operations", "sums"):
                raise InputError(f"latency.json: unknown method {data['method']!r}; valid: operations, sums")
            samples = tuple(Sample.from_json(s) for s in data["samples"])
            return cls(
                space, data["method"], samples, PredictionError(**data["error"]), finite(data["anchor_ms"]),
                dict(data["source"]), None if data["sums"] is None else Sums.from_json(data["sums"]),
            )  # fmt: skip
        except InputError:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise InputError(f"latency.json is damaged: {type(error).__name__} {error}") from error


def _matrix(samples: Sequence[Sample]) -> Any:
    """``(N, variables)`` int64."""
    return np.array([s.candidate for s in samples], dtype=np.int64)


def _times(samples: Sequence[Sample]) -> dict[str, Floats]:
    """Operation -> ``(N,)`` profiled milliseconds, NaN where a candidate has none."""
    names = dict.fromkeys(name for s in samples for name in s.operations)
    return {name: np.array([s.operations.get(name, np.nan) for s in samples]) for name in names}
