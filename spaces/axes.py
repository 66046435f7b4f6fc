"""The algebra of dimensions: what every tensor dimension of a network is made of.

A dimension is an ordered sum of products of atoms: a concatenation is a sum, a reshape makes products. Binding
is lazy: places stored earlier resolve to finer atoms later. One function, :func:`mask`, then answers everything: sizes,
boundaries, pads, heads, groups. What operations do to dimensions is in :mod:`niwaki.spaces.algebra`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


class Atom:
    """A run of ``size`` units that is only ever treated as a whole; compared by identity.

    ``pin`` says why it may not shrink; ``bind`` is the finer expression that replaced it; ``batch`` marks the batch.
    """

    __slots__ = ("batch", "bind", "exact", "pin", "size")

    def __init__(self, size: int, pin: str | None = None, *, batch: bool = False) -> None:
        self.size = size
        self.pin = pin
        self.bind: Dim | None = None
        self.batch = batch
        self.exact = True

    def __repr__(self) -> str:
        return f"Atom({self.size}{', ' + self.pin if self.pin else ''})"


Product = tuple[Atom, ...]
Dim = tuple[Product, ...]
ONE: Dim = ((),)


def new(size: int, pin: str | None = None, *, batch: bool = False) -> Dim:
    """A dimension of one fresh atom (of none where the size is 1: there is nothing to prune)."""
    return ONE if size == 1 and not batch else ((Atom(size, pin, batch=batch),),)


def product_size(product: Product) -> int:
    size = 1
    for atom in product:
        size *= atom.size
    return size


def dim_size(dim: Dim) -> int:
    return sum(product_size(p) for p in dim)


def resolve(dim: Dim) -> Dim:
    """The same dimension in atoms that are not bound, except sums that stand behind an outer factor."""
    out: list[Product] = []
    for product in dim:
        out.extend(refine(product))
    return tuple(out)


def refine(product: Product) -> Iterator[Product]:
    """The segments that a product resolves to."""
    factors: list[Atom] = []
    for i, name in enumerate(product):
        atom = _root(name)
        if atom.bind is None:
            if atom.size != 1 or atom.batch:
                factors.append(atom)
            continue
        inner = resolve(atom.bind)
        if len(inner) == 1:
            factors.extend(inner[0])
        elif not factors:  # (a + b) * c is the concatenation a*c, b*c
            for segment in inner:
                yield from refine(segment + product[i + 1 :])
            return
        else:  # p * (a + b) is not a concatenation: the sum stays one factor
            factors.append(atom)
    yield tuple(factors)


def _root(atom: Atom) -> Atom:
    """The atom that stands for this one. Thousands of additions rename a stream thousands of times: no recursion here,
    and the next time the way is short."""
    path = []
    while atom.bind is not None and len(atom.bind) == 1 and len(atom.bind[0]) == 1:
        path.append(atom)
        atom = atom.bind[0][0]
    for passed in path:
        passed.bind = ((atom,),)
    return atom


def leaves(dim: Dim) -> Iterator[Atom]:
    """Every unbound atom of the dimension, nested sums included (repeats stay repeats)."""
    for product in resolve(dim):
        for atom in product:
            if atom.bind is None:
                yield atom
            else:
                yield from leaves(atom.bind)


def pin(dim: Dim, reason: str) -> None:
    """Forbid the dimension to shrink; the first reason given stays."""
    for atom in leaves(dim):
        atom.pin = atom.pin or reason


def inexact(dim: Dim) -> None:
    """Note that the dimension crosses a normaliser: a removed unit is not the same as a zero one."""
    for atom in leaves(dim):
        atom.exact = False


def mask(dim: Dim, keep: Mapping[Atom, Tensor]) -> Tensor:
    """Bool ``(size,)``: which positions of the dimension stay; atoms not in ``keep`` stay whole.

    Example:
        >>> a = Atom(2)
        >>> mask(((a, Atom(2)),), {a: torch.tensor([True, False])}).tolist()
        [True, True, False, False]
    """
    segments = []
    for product in resolve(dim):
        m = torch.ones(1, dtype=torch.bool)
        for atom in product:
            if atom.bind is not None:
                part = mask(atom.bind, keep)
            elif atom in keep:
                part = keep[atom]
            else:
                part = torch.ones(atom.size, dtype=torch.bool)
            m = (m[:, None] & part[None]).reshape(-1)
        segments.append(m)
    return torch.cat(segments)


def size(dim: Dim, width: Callable[[Atom], Any]) -> Any:
    """Positions that stay, given the units each leaf atom keeps (ints or arrays)."""
    total: Any = 0
    for product in resolve(dim):
        n: Any = 1
        for atom in product:
            n = n * (size(atom.bind, width) if atom.bind is not None else width(atom))
        total = total + n
    return total


def positions(dim: Dim) -> dict[Atom, Tensor | None]:
    """Where every atom sits: ``(units, span)`` int64 rows of ascending positions; None if a position holds it twice.

    Example:
        >>> a, b = Atom(2), Atom(3)
        >>> positions(((a, b),))[a].tolist()
        [[0, 1, 2], [3, 4, 5]]
    """
    found: dict[Atom, list[Tensor]] = {}
    twice: set[Atom] = set()
    offset = 0
    for product in resolve(dim):
        total, outer = product_size(product), 1
        here: set[Atom] = set()
        for factor in product:
            inner = total // (outer * factor.size)
            parts = {factor: torch.arange(factor.size)[:, None]} if factor.bind is None else positions(factor.bind)
            for atom, index in parts.items():
                if index is None or atom in here:
                    twice.add(atom)
                    continue
                here.add(atom)
                start = index[:, None, :] + torch.arange(outer)[:, None] * factor.size
                place = offset + start[..., None] * inner + torch.arange(inner)
                found.setdefault(atom, []).append(place.reshape(atom.size, -1))
            outer *= factor.size
        offset += total
    return {a: None if a in twice else torch.cat(p, dim=1).sort(dim=1).values for a, p in found.items()}
