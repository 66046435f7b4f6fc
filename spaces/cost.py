"""Exact costs straight from a Space, for many candidates at once; the same as :mod:`niwaki.spaces.count` finds.

Convention: 1 multiply-accumulate = 1 MAC; convolutions, linears and matmuls are counted, for one example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from niwaki.spaces import axes
from niwaki.spaces.axes import Atom, Dim
from niwaki.spaces.sparsity import Sparsity
from niwaki.spaces.types import Group

if TYPE_CHECKING:
    from niwaki.spaces.plan import Plan

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Poly:
    """The size of a dimension as a polynomial in the widths of the groups."""

    __slots__ = ("terms",)

    def __init__(self, terms: list[tuple[int, tuple[int, ...], tuple[Poly, ...]]]) -> None:
        self.terms = terms

    def __call__(self, widths: Ints, memo: dict[Poly, Any]) -> Any:
        """``widths``: (groups, N). Returns an int or (N,)."""
        if self not in memo:
            total: Any = 0
            for const, columns, nested in self.terms:
                n: Any = const
                for c in columns:
                    n = n * widths[c]
                for poly in nested:
                    n = n * poly(widths, memo)
                total = total + n
            memo[self] = total
        return memo[self]


@dataclass(frozen=True, eq=False)
class TensorCost:
    """One tensor of the state dict: ``users`` are the block sets of the operations that read it."""

    key: str
    sizes: tuple[Poly, ...]
    parameter: bool
    itemsize: int
    users: tuple[frozenset[str], ...]


@dataclass(frozen=True, eq=False)
class RowCost:
    """One operation: MACs = product of ``factors`` unless one of ``blocks`` is skipped or ``summed`` is one place."""

    name: str
    op: str
    factors: tuple[Poly, ...]
    inputs: Poly
    outputs: Poly
    positions: tuple[Poly, ...]
    groups: Poly
    kernel: int
    stride: int
    weights: tuple[Poly, ...]
    blocks: frozenset[str]
    summed: tuple[Poly, ...]

    def macs(self, widths: Ints, memo: dict[Poly, Any]) -> Any:
        """An int or (N,)."""
        if not self.factors:
            return 0
        macs = _product(self.factors, widths, memo)
        return macs * (np.asarray(_product(self.summed, widths, memo)) > 1) if self.summed else macs


@dataclass(frozen=True)
class Costs:
    """Costs of N candidates: three (N,) int64 arrays; units as in :class:`Cost`."""

    macs: Ints
    params: Ints
    bytes: Ints


@dataclass(frozen=True)
class LayerRow:
    """One operation of N candidates, for latency models: (N,) arrays; ``positions`` = output positions per example."""

    name: str
    op: str
    kernel: int
    stride: int
    positions: Ints
    inputs: Ints
    outputs: Ints
    groups: Ints
    macs: Ints
    weights: Ints
    alive: Bools


@dataclass(frozen=True, eq=False)
class Selection:
    """N candidates as arrays: ``widths`` (groups, N), ``alive`` block -> (N,), ``tokens`` layer -> token -> (N,)."""

    widths: Ints
    alive: Mapping[str, Bools]
    tokens: Mapping[str, Mapping[str, Bools]]
    _living: dict[tuple[frozenset[str], ...], Bools] = field(default_factory=dict, repr=False)

    @property
    def n(self) -> int:
        return int(self.widths.shape[1])

    def living(self, users: tuple[frozenset[str], ...]) -> Bools:
        """Where at least one user has all of its blocks. Not to be written to: tensors with the same users share it."""
        if users not in self._living:
            if not users or any(not u for u in users):
                found = np.ones(self.n, dtype=np.bool_)
            else:
                found = np.logical_or.reduce([np.logical_and.reduce([self.alive[b] for b in u]) for u in set(users)])
            self._living[users] = found
        return self._living[users]


class CostTable:
    """Polynomials of a Space; built once, evaluated for any number of candidates."""

    def __init__(self, tensors: list[TensorCost], rows: list[RowCost]) -> None:
        self.tensors = tensors
        self.rows = rows

    @classmethod
    def compile(cls, plan: Plan, groups: tuple[Group, ...]) -> CostTable:
        poly = polynomials(plan, groups)
        blocks, users = plan.block_sets(), plan.users()
        tensors = [
            TensorCost(key, tuple(poly(d) for d in plan.analysis.tensors[key]), *kind, users[key])
            for key, kind in plan.kinds.items()
        ]
        rows = [
            RowCost(
                str(r.node.name),
                r.op,
                tuple(poly(f) for f in r.factors),
                poly(r.inputs),
                poly(r.outputs),
                tuple(poly(p) for p in r.positions),
                poly(r.groups),
                r.kernel,
                r.stride,
                tuple(poly(d) for d in plan.analysis.tensors[r.weight]) if r.weight else (),
                blocks.get(r.node, frozenset()),
                tuple(poly(d) for d in r.summed),
            )
            for r in plan.analysis.rows
            if r.node.graph is plan.programs["eval"].graph
        ]
        return cls(tensors, rows)

    def costs(self, chosen: Selection) -> Costs:
        """Exact MACs, parameters and stored bytes, each (N,) int64."""
        memo: dict[Poly, Any] = {}
        macs, params, stored = (np.zeros(chosen.n, dtype=np.int64) for _ in range(3))
        for row in self.rows:
            macs += row.macs(chosen.widths, memo) * chosen.living((row.blocks,))
        for t in self.tensors:
            numel = _product(t.sizes, chosen.widths, memo)
            living = chosen.living(t.users)
            if t.parameter:
                params += numel * living
            size = numel * t.itemsize
            for token, where in chosen.tokens.get(t.key.removesuffix(".weight"), {}).items():
                fan_in = _product(t.sizes[1:], chosen.widths, memo)
                full = np.broadcast_to(np.asarray(numel, dtype=np.int64), (chosen.n,))
                size = np.where(where, Sparsity.parse(token).stored_bytes(full, fan_in, t.itemsize), size)
            stored += size * living
        return Costs(macs, params, stored)

    def layers(self, chosen: Selection) -> list[LayerRow]:
        """Sizes of every operation of every candidate, in graph order."""
        memo: dict[Poly, Any] = {}

        def full(value: Any) -> Ints:
            return np.broadcast_to(np.asarray(value, dtype=np.int64), (chosen.n,))

        return [
            LayerRow(
                r.name,
                r.op,
                r.kernel,
                r.stride,
                full(_product(r.positions, chosen.widths, memo)),
                full(r.inputs(chosen.widths, memo)),
                full(r.outputs(chosen.widths, memo)),
                full(r.groups(chosen.widths, memo)),
                full(r.macs(chosen.widths, memo)),
                full(_product(r.weights, chosen.widths, memo) if r.weights else 0),
                chosen.living((r.blocks,)),
            )
            for r in self.rows
        ]


def polynomials(plan: Plan, groups: tuple[Group, ...]) -> Callable[[Dim], Poly]:
    """Dimension -> its size as a polynomial in the widths of ``groups``; equal dimensions share one."""
    column = {plan.atoms[g.name]: i for i, g in enumerate(groups)}
    cache: dict[Dim, Poly] = {}

    def poly(dim: Dim) -> Poly:
        resolved = axes.resolve(dim)
        if resolved not in cache:
            cache[resolved] = Poly([_term(p, column, poly) for p in resolved])
        return cache[resolved]

    return poly


def _term(
    product: axes.Product, column: Mapping[Atom, int], poly: Any
) -> tuple[int, tuple[int, ...], tuple[Poly, ...]]:
    const, columns, nested = 1, [], []
    for atom in product:
        if atom.bind is not None:
            nested.append(poly(atom.bind))
        elif atom in column:
            columns.append(column[atom])
        elif not atom.batch:
            const *= atom.size
    return const, tuple(columns), tuple(nested)


def _product(factors: tuple[Poly, ...], widths: Ints, memo: dict[Poly, Any]) -> Any:
    n: Any = 1
    for f in factors:
        n = n * f(widths, memo)
    return n
