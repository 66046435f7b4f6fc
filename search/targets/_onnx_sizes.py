"""What the integers in the ONNX files of a space's candidates can be: sizes that the algebra of dimensions knows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from niwaki.spaces import axes
from niwaki.spaces.axes import Atom, Dim
from niwaki.spaces.passes import Size
from niwaki.spaces.space import Space
from niwaki.spaces.types import Candidate

Fingerprint = tuple[int, ...]
DRAWS = 48
TRIES = 300
MOST_PROBES = 3


@dataclass(frozen=True)
class Term:
    """``factor`` times the sizes of the pool's dimensions with these numbers."""

    factor: int
    dims: tuple[int, ...] = ()

    def __call__(self, sizes: Sequence[int]) -> int:
        return self.factor * math.prod(sizes[d] for d in self.dims)


class Sizes:
    """Dimensions of every parameter and of every value in the graph, their segments and prefix sums (slice bounds).

    Dimensions that are equal for all candidates are one. ``fitted`` are the candidates whose ONNX files are compared:
    an integer's values in those files are its fingerprint, and :meth:`find` looks up what has the same.
    """

    def __init__(self, space: Space, batch: int, seed: int) -> None:
        self._group = {space.plan.atoms[g.name]: g.name for g in space.groups}
        self._batch = batch
        generator = torch.Generator().manual_seed(seed)
        drawn = [space.largest(), *(uneven(space, generator) for _ in range(DRAWS))]
        columns = {name: np.array([c.widths[name] for c in drawn]) for name in space.widths}
        self.dims: list[Dim] = []
        self.places: list[list[float]] = []
        self._number: dict[Dim, int] = {}
        rows: dict[Fingerprint, int] = {}
        for place, dim in _dimensions(space):
            if dim not in self._number:
                row = tuple(int(v) for v in np.broadcast_to(self._size(dim, columns), len(drawn)))
                self._number[dim] = rows.setdefault(row, len(rows))
            if (number := self._number[dim]) == len(self.dims):
                self.dims.append(dim)
                self.places.append([])
            self.places[number].append(place)
        self._rows = np.array(list(rows))
        chosen = self._choose(generator)
        self.fitted = [drawn[i] for i in chosen]
        self.unseen = next((c for i, c in enumerate(drawn) if i not in chosen))
        self._index(self._rows[:, chosen])

    def of(self, candidate: Candidate) -> list[int]:
        """The size of every dimension."""
        return [int(self._size(dim, candidate.widths)) for dim in self.dims]

    def number(self, dim: Dim) -> int:
        """The number of a dimension of the space."""
        return self._number[axes.resolve(dim)]

    def find(self, values: Fingerprint, place: float) -> Term | None:
        """A constant, a size, a multiple of a size or of the product of two that is ``values`` in the fitted files.

        ``place``: how far down the graph (0 to 1) to look first where several are.
        """
        if len(set(values)) == 1:
            return Term(values[0])
        if min(values) <= 0:
            return None
        if (number := self._nearest(self._exact.get(values, []), place)) is not None:
            return Term(1, (number,))
        return self._multiple(values, place) or self._product(values, place)

    def _multiple(self, values: Fingerprint, place: float) -> Term | None:
        common, shape = _primitive(values)
        found = [n for n in self._shapes.get(shape, []) if common % self._scale[n] == 0]
        number = self._nearest(found, place)
        return None if number is None else Term(common // self._scale[number], (number,))

    def _product(self, values: Fingerprint, place: float) -> Term | None:
        wanted = np.array(values)
        terms = []
        for fingerprint, numbers in self._exact.items():
            if len(set(fingerprint)) > 1 and not (wanted % np.array(fingerprint)).any():
                rest = tuple(int(v) for v in wanted // np.array(fingerprint))
                other = self._multiple(rest, place)
                first = self._nearest(numbers, place)
                if other is not None and first is not None:
                    terms.append(Term(other.factor, (first, *other.dims)))
        return min(terms, key=lambda t: (t.factor, sum(self._distance(d, place) for d in t.dims)), default=None)

    def _nearest(self, numbers: list[int], place: float) -> int | None:
        return min(numbers, key=lambda n: self._distance(n, place), default=None)

    def _distance(self, number: int, place: float) -> float:
        return min(abs(p - place) for p in self.places[number])

    def _index(self, fingerprints: NDArray[np.int64]) -> None:
        self._exact: dict[Fingerprint, list[int]] = {}
        self._shapes: dict[Fingerprint, list[int]] = {}
        self._scale: list[int] = []
        for number, row in enumerate(fingerprints):
            values = tuple(int(v) for v in row)
            common, shape = _primitive(values)
            self._exact.setdefault(values, []).append(number)
            self._shapes.setdefault(shape, []).append(number)
            self._scale.append(common)

    def _choose(self, generator: torch.Generator) -> list[int]:
        """The largest candidate and the two or three draws under which the fewest dimensions look alike."""
        best: tuple[int, list[int]] = (-1, [])
        for probes in range(2, MOST_PROBES + 1):
            for _ in range(TRIES):
                picked = torch.randperm(DRAWS, generator=generator)[:probes] + 1
                columns = [0, *(int(p) for p in picked)]
                best = max(best, (len({*map(tuple, self._rows[:, columns].tolist())}), columns), key=lambda b: b[0])
            if best[0] == len(self._rows):
                break
        return best[1]

    def _size(self, dim: Dim, widths: Any) -> Any:
        def width(atom: Atom) -> Any:
            return self._batch if atom.batch else widths[self._group[atom]] if atom in self._group else atom.size

        return axes.size(dim, width)


def uneven(space: Space, generator: torch.Generator) -> Candidate:
    """Random widths of at least two, at full depth: graphs of one channel are simplified in other ways."""
    units = {g.name: g.units for g in space.groups}
    widths: dict[str, int] = {}
    for first, names in space.members.items():
        low = min(2, units[first])
        widths |= dict.fromkeys(names, int(torch.randint(low, units[first] + 1, (), generator=generator)))
    return Candidate(widths)


def shallowest(space: Space, widths: Candidate) -> Candidate:
    """The same widths with every block gone that may go."""
    skipped = {b for stage, blocks in space.stages.items() for b in blocks[space.least[stage]:]}
    return Candidate(widths.widths, frozenset(skipped))


def _dimensions(space: Space) -> list[tuple[float, Dim]]:
    """(place in the graph, resolved dimension), repeats included."""
    analysis, program = space.plan.analysis, space.plan.programs["eval"]
    found: list[tuple[float, Dim]] = []
    order = {node: i for i, node in enumerate(program.graph.nodes)}
    for node, i in order.items():
        first = i if node.op != "placeholder" else min((order[u] for u in node.users), default=i)  # all come on top
        place = first / len(order)
        dims = [d for part in analysis.values.get(node, []) for d in part]
        rewrite: Any = analysis.rewrites.get(node)
        dims += [v.dim for v in _flat(rewrite[1:]) if isinstance(v, Size)] if rewrite else []
        for dim in dims:
            resolved = axes.resolve(dim)
            found.append((place, resolved))
            for k in range(len(resolved)) if len(resolved) > 1 else ():
                found += [(place, (resolved[k],)), (place, resolved[:k + 1])]
    found += [(1.0, axes.resolve(d)) for dims in analysis.tensors.values() for d in dims]
    return found


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    return [x for v in value for x in _flat(v)] if isinstance(value, (list, tuple)) else [value]


def _primitive(values: Fingerprint) -> tuple[int, Fingerprint]:
    common = math.gcd(*values) or 1
    return common, tuple(v // common for v in values)
