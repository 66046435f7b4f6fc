"""What candidates cost, many at a time: exact counts from the space, latency from a model fitted to the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from niwaki.spaces.types import Candidate, Cost, Variable

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

FIELDS = {"latency": "latency_ms", "macs": "macs", "params": "params", "size": "bytes", "memory": "memory_bytes"}
"""Name of a budget -> attribute of Cost; the units are ms, MACs, parameters, bytes, bytes."""


class CountArrays(Protocol):
    """Counts of N candidates, each an ``(N,)`` int64 array."""

    @property
    def macs(self) -> Any: ...
    @property
    def params(self) -> Any: ...
    @property
    def bytes(self) -> Any: ...


class SearchSpace(Protocol):
    """What a search needs of ``niwaki.spaces.Space``; an index counts into ``Variable.choices``, 0 = smallest."""

    @property
    def variables(self) -> tuple[Variable, ...]: ...
    def smallest(self) -> Candidate: ...
    def largest(self) -> Candidate: ...
    def uniform(self, ratio: float) -> Candidate: ...
    def sample(self, generator: torch.Generator) -> Candidate: ...
    def contains(self, candidate: Candidate) -> bool: ...
    def canonical(self, candidate: Candidate) -> Candidate: ...
    def encode(self, candidate: Candidate) -> list[int]: ...
    def decode(self, indices: Sequence[int]) -> Candidate: ...
    def cost(self, candidate: Candidate) -> Cost: ...
    def costs(self, matrix: Any) -> CountArrays: ...
    def memory(self, matrix: Any) -> Any: ...


class LatencyPredictor(Protocol):
    """Predicts milliseconds from an ``(N, variables)`` matrix of choice indices."""

    def predict(self, matrix: Any) -> Any: ...


@dataclass(frozen=True, eq=False)
class Costing:
    """Costs of candidates of one space; ``latency`` None where no latency is asked for, ``memory`` where it is."""

    space: SearchSpace
    latency: LatencyPredictor | None = None
    memory: bool = False

    def __call__(self, matrix: Ints) -> dict[str, Floats]:
        """Costs of the rows of ``matrix``, ``(N, variables)`` choice indices.

        Returns a ``(N,)`` array for each of ``macs``, ``params``, ``size`` (bytes) and, where asked for, ``latency``
        (ms) and ``memory`` (bytes).
        """
        counts = self.space.costs(matrix)
        arrays = {"macs": counts.macs, "params": counts.params, "size": counts.bytes}
        if self.latency is not None:
            arrays["latency"] = self.latency.predict(matrix)
        if self.memory:
            arrays["memory"] = self.space.memory(matrix)
        return {name: np.asarray(values, dtype=np.float64) for name, values in arrays.items()}

    def cost(self, candidate: Candidate) -> Cost:
        """Exact counts of one candidate, with its predicted latency where there is a model."""
        count = self.space.cost(candidate)
        if self.latency is None:
            return count
        row = np.asarray([self.space.encode(candidate)], dtype=np.int64)
        return replace(count, latency_ms=float(self.latency.predict(row)[0]))


@dataclass(frozen=True)
class Limits:
    """Upper bounds in absolute numbers: ``values`` maps budget names to ms, MACs, parameters or bytes.

    ``units`` remembers how the user wrote each of them, for messages.
    """

    values: Mapping[str, float]
    units: Mapping[str, str]

    def __hash__(self) -> int:
        return hash(tuple(sorted(self.values.items())))

    def excess(self, cost: Cost) -> dict[str, float]:
        """``(cost - limit) / limit`` for each budget; all <= 0 means that the candidate fits."""
        return {name: value_of(cost, name) / limit - 1 for name, limit in self.values.items()}

    def fits(self, cost: Cost) -> bool:
        return all(value_of(cost, name) <= limit for name, limit in self.values.items())

    def fraction(self, costs: Mapping[str, Floats]) -> Floats:
        """``(N,)``: the largest cost / limit over the budgets, <= 1 where all hold; zeros where there is no budget."""
        if not self.values:
            return np.zeros(len(next(iter(costs.values()))))
        return np.max([costs[name] / limit for name, limit in self.values.items()], axis=0)  # type: ignore[no-any-return]

    def only(self, name: str) -> Limits:
        """One of the budgets alone."""
        return Limits({name: self.values[name]}, {name: self.units.get(name, "")})

    def times(self, level: float) -> Limits:
        """All of them at a fraction."""
        return Limits({name: limit * level for name, limit in self.values.items()}, self.units)

    def capped(self, costs: Mapping[str, Floats]) -> Limits:
        """The same limits, none above row 0 of ``costs``, so that fractions of a loose budget mean something."""
        return Limits({name: min(limit, float(costs[name][0])) for name, limit in self.values.items()}, self.units)


def value_of(cost: Cost, name: str) -> float:
    """The figure of ``cost`` that budget ``name`` speaks of; ValueError for a latency or memory that nobody knows."""
    value = getattr(cost, FIELDS[name])
    if value is None:
        raise ValueError(f"the cost has no {name}: give a model of it (or measure it) before asking")
    return float(value)
