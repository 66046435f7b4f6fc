"""Tied groups share one decision, everywhere a candidate is made, read, costed or carved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from niwaki.spaces import Candidate, InputError, Space, carve, count, derive
from tests.zoo import build

MODEL, X = build("residual_a")
TIE = [["layer1.*.conv1"], ["layer2.1.conv1", "layer2.2.conv1"], ["stem.0", "layer1.0.conv1"]]
SPACE = derive(MODEL, X, tie=TIE, sparsity=["0.5"])
FREE = derive(MODEL, X, sparsity=["0.5"])
CLASSES = (
    ("stem.0", "layer1.0.conv1", "layer1.1.conv1", "layer1.2.conv1"),
    ("layer2.1.conv1", "layer2.2.conv1"),
)


@st.composite
def candidates(draw: st.DrawFn, space: Space = SPACE) -> Candidate:
    return space.decode([draw(st.integers(0, len(v.choices) - 1)) for v in space.variables])


def equal(candidate: Candidate) -> bool:
    return all(len({candidate.widths[n] for n in names}) == 1 for names in CLASSES)


def test_one_variable_a_class_named_after_its_first_group() -> None:
    assert {frozenset(names) for names in SPACE.ties} == {frozenset(names) for names in CLASSES}
    widths = [v.name for v in SPACE.variables if v.kind == "width"]
    assert widths == list(SPACE.members) == [g.name for g in SPACE.groups if g.name in SPACE.members]
    assert sorted(n for names in SPACE.members.values() for n in names) == sorted(g.name for g in SPACE.groups)
    assert len(widths) == len(SPACE.groups) - 4
    assert SPACE.digest != FREE.digest


@given(candidates())
def test_decoded_candidates_are_tied_and_encode_back(candidate: Candidate) -> None:
    assert set(candidate.widths) == {g.name for g in SPACE.groups}
    assert equal(candidate)
    assert SPACE.decode(SPACE.encode(candidate)) == candidate
    assert SPACE.contains(candidate)
    assert FREE.contains(candidate)
    assert SPACE.cost(candidate) == FREE.cost(candidate)


@given(st.lists(candidates(), min_size=1, max_size=7))
def test_a_matrix_costs_what_its_candidates_cost(many: list[Candidate]) -> None:
    matrix = np.array([SPACE.encode(c) for c in many], dtype=np.int64)
    for costs in (SPACE.costs(matrix), SPACE.costs(many)):
        single = [SPACE.cost(c) for c in many]
        assert costs.macs.tolist() == [c.macs for c in single]
        assert costs.params.tolist() == [c.params for c in single]
        assert costs.bytes.tolist() == [c.bytes for c in single]


@given(candidates())
def test_canonical_candidates_stay_in_the_space_and_cost_the_same(candidate: Candidate) -> None:
    """What a skipped block takes away is full, unless it is tied to something that lives."""
    canonical = SPACE.canonical(candidate)
    assert equal(canonical)
    assert SPACE.contains(canonical)
    assert SPACE.canonical(canonical) == canonical
    assert SPACE.cost(canonical) == SPACE.cost(candidate)
    for name in CLASSES[0]:  # the stem lives, whatever is skipped
        assert canonical.widths[name] == candidate.widths[name]
    if {"layer2.1", "layer2.2"} <= candidate.skipped:
        assert canonical.widths["layer2.1.conv1"] == SPACE.widths["layer2.1.conv1"][-1]


@settings(max_examples=10, deadline=None)
@given(candidates())
def test_students_of_tied_candidates_cost_what_was_promised(candidate: Candidate) -> None:
    candidate = replace(candidate, sparsity={})
    assert count(carve(MODEL, SPACE, candidate), X) == SPACE.cost(candidate)


@given(candidates())
def test_neighbours_move_a_class_together(candidate: Candidate) -> None:
    start = np.array(SPACE.encode(candidate))
    for neighbour in SPACE.neighbours(candidate):
        assert equal(neighbour)
        assert np.abs(np.array(SPACE.encode(neighbour)) - start).sum() == 1


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("stream", [None, 0.4, 1.0])
def test_uniform_sample_and_extremes_are_tied(ratio: float, stream: float | None) -> None:
    generator = torch.Generator().manual_seed(int(100 * ratio))
    some = [SPACE.uniform(ratio, stream), SPACE.sample(generator), SPACE.smallest(), SPACE.largest()]
    assert all(equal(c) and SPACE.contains(c) for c in some)
    wanted = ratio if stream is None else stream  # layer1's inner widths are tied to the stem, a residual stream
    assert some[0].widths["layer1.1.conv1"] == SPACE.uniform(wanted).widths["stem.0"]
    assert SPACE.uniform(1.0) == SPACE.largest() == FREE.largest()


def test_unequal_widths_are_refused_by_name_but_can_be_costed_and_carved() -> None:
    full = SPACE.largest()
    uneven = replace(full, widths={**full.widths, "layer1.1.conv1": 4})
    with pytest.raises(InputError, match=r"'stem.0' and 'layer1.1.conv1' are tied, but keep 8 and 4 units"):
        SPACE.encode(uneven)
    assert not SPACE.contains(uneven)
    assert SPACE.cost(uneven) == FREE.cost(uneven) == count(carve(MODEL, SPACE, uneven), X)
