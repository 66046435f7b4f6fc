from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from niwaki.pruning import select
from niwaki.spaces.errors import InputError
from niwaki.spaces.types import Candidate


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.data())
def test_the_best_units_ascending_ties_to_the_lower_index(values, data):
    from types import SimpleNamespace

    from niwaki.spaces.types import Group

    width = data.draw(st.integers(1, len(values)))
    space = SimpleNamespace(groups=(Group("g", len(values), (len(values),), ()),))
    kept = select(space, Candidate({"g": width}), {"g": torch.tensor(values, dtype=torch.float32)})["g"]
    truth = sorted(sorted(range(len(values)), key=lambda u: (-values[u], u))[:width])
    assert kept.dtype == torch.int64
    assert kept.tolist() == truth


def test_groups_in_skipped_blocks_are_included(space):
    scores = {g.name: torch.arange(g.units).float() for g in space.groups}
    candidate = Candidate({"conv": 2, "block.conv1": 3, "fc1": 7}, skipped=frozenset({"block"}))
    kept = select(space, candidate, scores)
    assert {k: v.tolist() for k, v in kept.items()} == {
        "conv": [4, 5], "block.conv1": [2, 3, 4], "fc1": list(range(7))
    }


@pytest.mark.parametrize(("widths", "change", "message"), [
    ({"conv": 2}, {}, r"block\.conv1: expected 1 to 5, got None"),
    ({"conv": 7}, {}, r"conv: expected 1 to 6, got 7"),
    ({}, {"conv": torch.ones(5)}, r"conv: expected shape \(6,\), got shape \(5,\)"),
    ({}, {"conv": torch.tensor([1.0, 2, 3, 4, 5, float("nan")])}, "conv: expected finite values"),
])
def test_what_does_not_fit_is_refused_with_its_name(space, widths, change, message):
    full = widths or {g.name: g.units for g in space.groups}
    scores = {g.name: torch.ones(g.units) for g in space.groups} | change
    with pytest.raises(InputError, match=message):
        select(space, Candidate(full), scores)


def test_missing_scores_are_refused(space):
    with pytest.raises(InputError, match=r"conv: expected shape .* got nothing"):
        select(space, Candidate({g.name: 1 for g in space.groups}), {})
