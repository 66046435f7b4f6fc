"""Choices and their arithmetic: index vectors, canonical candidates, costs of many at once."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from niwaki.pruning.masks import Masks
from niwaki.spaces import Candidate, InputError, Space, SpaceOptions, carve, count, derive
from tests.zoo import build

MODEL, X = build("residual_a")
SPACE = derive(MODEL, X, SpaceOptions(sparsity=("0.5", "2:4", "0.9")))


@st.composite
def candidates(draw: st.DrawFn, space: Space = SPACE) -> Candidate:
    return space.decode([draw(st.integers(0, len(v.choices) - 1)) for v in space.variables])


@given(candidates())
def test_encode_inverts_decode(candidate: Candidate) -> None:
    assert SPACE.decode(SPACE.encode(candidate)) == candidate
    assert SPACE.contains(candidate)
    assert Candidate.from_json(json.loads(json.dumps(candidate.to_json()))) == candidate


@given(st.lists(candidates(), min_size=1, max_size=7))
def test_one_matrix_costs_what_each_costs(many: list[Candidate]) -> None:
    matrix = np.array([SPACE.encode(c) for c in many], dtype=np.int64)
    for costs in (SPACE.costs(matrix), SPACE.costs(many)):
        single = [SPACE.cost(c) for c in many]
        assert costs.macs.tolist() == [c.macs for c in single]
        assert costs.params.tolist() == [c.params for c in single]
        assert costs.bytes.tolist() == [c.bytes for c in single]


@settings(max_examples=15, deadline=None)
@given(candidates())
def test_sparse_bytes_are_those_of_the_masked_student(candidate: Candidate) -> None:
    """Masks put exactly as many zeros as the Space promised, skipped blocks and odd widths included."""
    candidate = SPACE.canonical(candidate)
    student = carve(MODEL, SPACE, candidate)
    Masks.create(student, candidate.sparsity).apply()
    assert count(student, X, candidate.sparsity) == SPACE.cost(candidate)


@given(candidates())
def test_canonical_is_the_same_model(candidate: Candidate) -> None:
    canonical = SPACE.canonical(candidate)
    assert SPACE.canonical(canonical) == canonical
    assert SPACE.cost(canonical) == SPACE.cost(candidate)
    assert canonical.skipped == candidate.skipped
    for block in candidate.skipped:
        assert canonical.widths[f"{block}.conv1"] == SPACE.widths[f"{block}.conv1"][-1]


def test_extremes() -> None:
    largest, smallest = SPACE.cost(SPACE.largest()), SPACE.cost(SPACE.smallest())
    assert largest == count(MODEL, X)
    matrix = np.array([SPACE.encode(SPACE.sample(torch.Generator().manual_seed(s))) for s in range(50)])
    costs = SPACE.costs(matrix)
    assert (costs.macs >= smallest.macs).all()
    assert (costs.macs <= largest.macs).all()
    assert SPACE.uniform(1.0) == SPACE.largest()
    assert SPACE.uniform(0.5).widths["layer1.0.conv1"] == 4


def test_neighbours_differ_in_one_variable() -> None:
    middle = SPACE.decode([len(v.choices) // 2 for v in SPACE.variables])
    found = list(SPACE.neighbours(middle))
    start = np.array(SPACE.encode(middle))
    assert all(np.abs(np.array(SPACE.encode(c)) - start).sum() == 1 for c in found)
    assert len(found) == sum(
        int(i > 0) + int(i + 1 < len(v.choices)) for i, v in zip(start, SPACE.variables, strict=True)
    )


def test_depth_keeps_the_first_blocks() -> None:
    assert SPACE.stages == {s: tuple(f"{s}.{i}" for i in range(3)) for s in ("layer1", "layer2")}
    assert SPACE.least == {"layer1": 1, "layer2": 0}
    with pytest.raises(InputError, match="keeps its first blocks"):
        SPACE.encode(Candidate(SPACE.largest().widths, frozenset({"layer1.1"})))


def test_streams_are_cut_into_the_segments_that_option_a_pads() -> None:
    units = {g.name: g.units for g in SPACE.groups}
    assert units["stem.0"] == 8
    assert units["layer2.0.conv2#0"] == units["layer2.0.conv2#1"] == 4


def test_options() -> None:
    options = SpaceOptions(ratios=(0.25, 0.6), step=4, keep=("layer1.*",), depth=False)
    space = derive(MODEL, X, options)
    assert not space.blocks
    assert all(w % 4 == 0 or w == g.units for g in space.groups for w in g.choices)
    assert {f.name for f in space.fixed if f.reason == "kept on request"} >= {"layer1.0.conv1", "layer1.2.conv1"}
    assert not any(g.name.startswith("layer1.") for g in space.groups)
    assert space.digest != SPACE.digest == derive(MODEL, X, SpaceOptions(sparsity=("0.5", "2:4", "0.9"))).digest


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpaceOptions(ratios=(0.0,)), "fractions"),
        (lambda: SpaceOptions(step=0), "space.step"),
        (lambda: SpaceOptions(sparsity=("4:2",)), "'4:2'"),
        (lambda: derive(MODEL, X, SpaceOptions(keep=("layr1",))), "did you mean 'layer1'"),
        (lambda: SPACE.encode(Candidate({**SPACE.largest().widths, "stem.0": 1})), r"is 1, on offer: \[2, 3, 4"),
        (lambda: SPACE.cost(Candidate({**SPACE.largest().widths, "stem.0": 9})), "has 8 units, asked for 9"),
        (lambda: SPACE.cost(Candidate(SPACE.largest().widths, sparsity={"fc": "0.3"})), "is '0.3', on offer"),
        (lambda: Candidate.from_json({"widths": {"a": 0}}), "positive integers"),
        (lambda: Candidate.from_json({"skipped": []}), "'widths'"),
        (lambda: Candidate.from_json({"widths": {}, "skipped": "x"}), "'skipped'"),
        (lambda: Candidate.from_json({"widths": {}, "sparsity": {"a": 1}}), "'sparsity'"),
    ],
)
def test_wrong_input_is_named(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()


def test_the_digest_follows_shapes_and_choices_not_lines_of_code() -> None:
    """A comment added to the model's file moves every source line; runs must still resume."""
    moved = replace(SPACE, fixed=tuple(replace(f, where="other.py:1") for f in SPACE.fixed))
    assert moved.fixed != SPACE.fixed
    assert moved.digest == SPACE.digest
    assert replace(SPACE, groups=SPACE.groups[1:]).digest != SPACE.digest
    assert replace(SPACE, fixed=()).digest != SPACE.digest


def test_uniform_can_spare_the_residual_streams() -> None:
    candidate = SPACE.uniform(0.5, stream=1.0)
    assert {g.name for g in SPACE.groups if g.stream} == {"stem.0", "layer2.0.conv2#0", "layer2.0.conv2#1"}
    units = {g.name: g.units for g in SPACE.groups}
    assert candidate.widths["stem.0"] == units["stem.0"]
    assert candidate.widths["layer2.1.conv1"] == units["layer2.1.conv1"] // 2
    assert SPACE.uniform(0.5, stream=0.5) == SPACE.uniform(0.5)
