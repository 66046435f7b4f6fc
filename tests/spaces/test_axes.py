"""The algebra on pure expressions: every answer is recomputed by carrying labels through real tensor operations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from niwaki.spaces import algebra, axes
from niwaki.spaces.axes import Atom, Dim


def keep_of(dim: Dim, seed: int) -> dict[Atom, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {a: torch.rand(a.size, generator=g) < 0.6 for a in dict.fromkeys(axes.leaves(dim))}


def test_product_masks_are_outer_products() -> None:
    a, b = Atom(3), Atom(4)
    keep = {a: torch.tensor([True, False, True]), b: torch.tensor([True, True, False, False])}
    expected = (keep[a][:, None] & keep[b][None]).flatten()
    assert torch.equal(axes.mask(((a, b),), keep), expected)
    assert int(axes.size(((a, b),), lambda x: int(keep[x].sum()))) == int(expected.sum())


def test_a_sum_in_front_distributes_and_behind_stays_nested() -> None:
    a, b, c = Atom(2), Atom(3), Atom(4)
    total = Atom(5)
    total.bind = ((a,), (b,))
    front, behind = axes.resolve(((total, c),)), axes.resolve(((c, total),))
    assert front == ((a, c), (b, c))
    assert behind == ((c, total),)
    keep = keep_of(behind, 0)
    inner = torch.cat([keep[a], keep[b]])
    assert torch.equal(axes.mask(behind, keep), (keep[c][:, None] & inner[None]).flatten())


def test_unify_cuts_both_sides_at_every_boundary() -> None:
    left = ((Atom(4),), (Atom(6),))
    right = ((Atom(5),), (Atom(5),))
    assert algebra.unify(left, right, "test")
    assert axes.resolve(left) == axes.resolve(right)
    assert [axes.product_size(p) for p in axes.resolve(left)] == [4, 1, 5]


def test_unify_of_products_refines_factors() -> None:
    whole, parts = ((Atom(12),),), ((Atom(3), Atom(4)),)
    assert algebra.unify(whole, parts, "test")
    assert axes.resolve(whole) == axes.resolve(parts)
    assert [a.size for a in axes.resolve(whole)[0]] == [3, 4]


def test_what_does_not_align_is_pinned_not_raised() -> None:
    left, right = ((Atom(2), Atom(3)),), ((Atom(3), Atom(2)),)
    assert not algebra.unify(left, right, "because")
    assert {a.pin for a in [*axes.leaves(left), *axes.leaves(right)]} == {"because"}


def test_a_pin_survives_binding_and_cutting() -> None:
    pinned, free = axes.new(6, "input"), axes.new(6)
    algebra.unify(free, pinned, "test")
    assert algebra.chunks(free, [2, 4]) is not None
    assert {a.pin for a in axes.leaves(free)} == {"input"}


def test_shuffle_ties_units_across_halves() -> None:
    """view(2, n) -> transpose -> flatten of cat(a, b): position p of a travels with position p of b."""
    a, b = Atom(4), Atom(4)
    parts = algebra.split(((a,), (b,)), [2, 4])
    assert parts is not None
    shuffled = algebra.merge([parts[1], parts[0]])
    assert axes.resolve(((a,),)) == axes.resolve(((b,),))
    keep = keep_of(shuffled, 1)
    units = keep[next(iter(keep))]
    assert torch.equal(axes.mask(shuffled, keep), units.repeat_interleave(2))


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3), seed=st.integers(0, 999))
def test_merge_and_split_are_a_reshape_of_labels(sizes: list[int], seed: int) -> None:
    """The mask of the merged dimension is the reshape of the masks' outer product; splitting gives the dims back."""
    dims = [axes.new(s) for s in sizes]
    merged = algebra.merge(dims)
    keep = keep_of(merged, seed)
    grid = torch.ones(sizes, dtype=torch.bool)
    for i, dim in enumerate(dims):
        shape = [1] * len(sizes)
        shape[i] = sizes[i]
        grid &= axes.mask(dim, keep).reshape(shape)
    assert torch.equal(axes.mask(merged, keep), grid.flatten())
    back = algebra.split(merged, sizes)
    assert back is not None
    assert [axes.resolve(d) for d in back] == [axes.resolve(d) for d in dims]


@given(cuts=st.lists(st.integers(1, 6), min_size=1, max_size=5), seed=st.integers(0, 999))
def test_chunks_of_a_concatenation_are_its_slices(cuts: list[int], seed: int) -> None:
    total = sum(cuts)
    first = total // 2
    dim = (*axes.new(first), *axes.new(total - first)) if first else axes.new(total)
    parts = algebra.chunks(dim, cuts)
    assert parts is not None
    keep = keep_of(dim, seed)
    whole = axes.mask(dim, keep)
    for part, piece in zip(parts, whole.split(cuts), strict=True):
        assert torch.equal(axes.mask(part, keep), piece)


@given(st.data())
def test_positions_agree_with_masks(data: st.DataObject) -> None:
    """Removing unit u removes exactly the positions listed for it."""
    atoms = [Atom(data.draw(st.integers(1, 4))) for _ in range(4)]
    nested = Atom(atoms[2].size + atoms[3].size)
    nested.bind = ((atoms[2],), (atoms[3],))
    dim: Dim = ((atoms[0], nested), (atoms[1],), (atoms[1], atoms[0]))
    for atom, index in axes.positions(dim).items():
        assert index is not None
        for u in range(atom.size):
            keep = {atom: torch.arange(atom.size) != u}
            gone = torch.nonzero(~axes.mask(dim, keep)).flatten()
            assert torch.equal(gone, index[u])


def test_positions_of_a_unit_that_meets_itself_are_refused() -> None:
    a = Atom(3)
    assert axes.positions(((a, a),))[a] is None


@pytest.mark.parametrize("newest_first", [False, True])
def test_a_stream_through_thousands_of_additions(newest_first: bool) -> None:
    """A chain of renamings is as long as the network is deep; resolving either end needs no recursion."""
    first = stream = axes.new(8)
    for _ in range(3000):
        branch = axes.new(8)
        assert algebra.unify(*((branch, stream) if newest_first else (stream, branch)), "test")
        stream = branch
    assert axes.resolve(first) == axes.resolve(stream)
    axes.pin(first, "because")
    assert [a.pin for a in axes.leaves(stream)] == ["because"]


def test_units_shifted_by_one_end_in_single_units() -> None:
    """x + shift(x) ties every unit to the next: the boundaries move on until nothing is left to cut."""
    x, zero = axes.new(6), axes.new(1)
    parts = algebra.chunks(x, [5, 1])
    assert parts is not None
    assert algebra.unify((*zero, *parts[0]), x, "test")
    assert [axes.product_size(p) for p in axes.resolve(x)] == [1] * 6
