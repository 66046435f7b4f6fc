"""Fronts against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from niwaki.search.pareto import hypervolume, non_dominated, ranks

TABLES = st.integers(1, 3).flatmap(
    lambda m: arrays(np.float64, st.tuples(st.integers(0, 25), st.just(m)),
                     elements=st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0, math.inf, math.nan]))
)


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def brute_front(points: np.ndarray) -> list[bool]:
    valid = [not any(math.isnan(x) for x in p) for p in points]
    return [
        ok and not any(good and dominates(q, p) for q, good in zip(points, valid, strict=True))
        for p, ok in zip(points, valid, strict=True)
    ]


@given(TABLES)
def test_front_equals_brute_force(points: np.ndarray) -> None:
    assert non_dominated(points).tolist() == brute_front(points)


def test_front_over_several_blocks_equals_brute_force() -> None:
    points = np.random.default_rng(0).integers(0, 40, (1300, 3)).astype(float)
    assert non_dominated(points).tolist() == brute_front(points)


@given(TABLES)
def test_rank_is_the_longest_chain_of_dominating_points(points: np.ndarray) -> None:
    """A point's rank is one more than the largest rank of those that dominate it: another definition, same numbers."""
    result = ranks(points)
    valid = ~np.isnan(points).any(axis=1) if len(points) else np.zeros(0, dtype=bool)
    for i in np.flatnonzero(valid):
        above = [result[j] for j in np.flatnonzero(valid) if dominates(points[j], points[i])]
        assert result[i] == (max(above) + 1 if above else 0)
    assert (result[~valid] == (result[valid].max() + 1 if valid.any() else 0)).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3).flatmap(lambda m: arrays(np.int64, st.tuples(st.integers(0, 8), st.just(m)),
                                                  elements=st.integers(0, 6))))
def test_hypervolume_equals_the_count_of_unit_cells(points: np.ndarray) -> None:
    size = 5
    cells = itertools.product(range(size), repeat=points.shape[1])
    covered = sum(any(all(p <= c for p, c in zip(point, cell, strict=True)) for point in points) for cell in cells)
    assert hypervolume(points, [size] * points.shape[1]) == pytest.approx(covered)


def test_hypervolume_in_four_columns_by_inclusion_and_exclusion() -> None:
    points = np.random.default_rng(1).random((6, 4))
    volume = 0.0
    for count in range(1, 7):
        for subset in itertools.combinations(points, count):
            volume -= (-1) ** count * float(np.prod(1 - np.max(subset, axis=0)))
    assert hypervolume(points, np.ones(4)) == pytest.approx(volume)


def test_nan_and_points_outside_add_nothing() -> None:
    points = [[1.0, 1.0], [math.nan, 0.0], [2.0, 5.0], [-math.nan, math.nan]]
    assert hypervolume(points, [2.0, 2.0]) == 1.0
    assert hypervolume(np.zeros((0, 2)), [1, 1]) == 0.0


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        non_dominated([1.0, 2.0])
    with pytest.raises(ValueError, match="reference"):
        hypervolume([[1.0, 2.0]], [1.0])
    with pytest.raises(ValueError, match="reference"):
        hypervolume([[1.0, 2.0]], [1.0, math.inf])
