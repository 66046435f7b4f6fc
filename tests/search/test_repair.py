"""Repair: always inside, close under the edge, near what was proposed, different every time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niwaki.search.budget import Budget, Costing, Limits
from niwaki.search.repair import fit_to
from tests.search.fake_space import FakeLatency, FakeSpace

SPACE = FakeSpace(stages=3, blocks=4, sparse=3)
COSTING = Costing(SPACE, FakeLatency(SPACE))
TEACHER = COSTING.cost(SPACE.largest())
SIZES = np.array([len(v.choices) for v in SPACE.variables])
BUDGETS = [
    Budget(macs="60%"), Budget(size="50%"), Budget(latency="80%", size="60%"), Budget(params="40%", latency="3ms"),
]


def fraction(row: np.ndarray, limits: Limits) -> float:
    """The largest share, from the costs of the one candidate and not from the vectorised path."""
    cost = COSTING.cost(SPACE.decode(row.tolist()))
    return 1 + max(limits.excess(cost).values())


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 2**32), budget=st.sampled_from(BUDGETS), fill=st.sampled_from([1.0, 0.8]))
def test_lands_inside_the_space_and_within_5_percent_under_the_budget(seed: int, budget: Budget, fill: float) -> None:
    rng = np.random.default_rng(seed)
    limits = budget.resolve(TEACHER)
    row = fit_to(rng.integers(0, SIZES), COSTING, limits, fill, rng)
    assert row is not None
    assert (row >= 0).all()
    assert (row < SIZES).all()
    assert 0.95 * fill <= fraction(row, limits) <= fill * (1 + 1e-12)


def test_what_fits_closely_is_left_alone() -> None:
    limits = Budget(size="50%").resolve(TEACHER)
    rng = np.random.default_rng(0)
    row = fit_to(rng.integers(0, SIZES), COSTING, limits, 1.0, rng)
    assert row is not None
    again = fit_to(row, COSTING, limits, 1.0, rng)
    assert again is not None
    assert again.tolist() == row.tolist()


def test_only_what_relieves_the_broken_budget_is_cut() -> None:
    """Where size alone is broken by a little, few of the many variables move."""
    limits = Budget(size="97%", latency="100%").resolve(TEACHER)
    moved = [
        np.count_nonzero(fit_to(SIZES - 1, COSTING, limits, 1.0, np.random.default_rng(s)) - (SIZES - 1))
        for s in range(20)
    ]
    assert max(moved) <= 6


def test_what_does_not_relieve_the_broken_budget_is_mostly_left() -> None:
    """Sparsity takes no time, so a latency budget alone gives no reason to touch it."""
    limits = Budget(latency="70%").resolve(TEACHER)
    sparse = [i for i, v in enumerate(SPACE.variables) if v.kind == "sparsity"]
    rows = [fit_to(SIZES - 1, COSTING, limits, 1.0, np.random.default_rng(s)) for s in range(40)]
    assert np.mean([row[sparse] == 0 for row in rows if row is not None]) < 0.1


def test_stays_nearer_to_its_proposal_than_to_another() -> None:
    limits = Budget(latency="80%", size="60%").resolve(TEACHER)
    rng = np.random.default_rng(1)
    proposals = rng.integers(0, SIZES, (30, len(SIZES)))
    fitted = np.array([fit_to(p, COSTING, limits, 0.9, rng) for p in proposals])
    own = np.abs(fitted - proposals).sum(axis=1)
    other = np.abs(fitted - np.roll(proposals, 1, axis=0)).sum(axis=1)
    assert own.mean() < 0.6 * other.mean()


def test_is_random_and_reproducible() -> None:
    limits = Budget(macs="40%").resolve(TEACHER)
    rows = {tuple(np.asarray(fit_to(SIZES - 1, COSTING, limits, 1.0, np.random.default_rng(s)))) for s in range(20)}
    assert len(rows) == 20
    first, second = (fit_to(SIZES - 1, COSTING, limits, 1.0, np.random.default_rng(5)) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.tolist() == second.tolist()


def test_grows_to_the_largest_where_the_budget_is_loose() -> None:
    limits = Limits({"macs": 2.0 * TEACHER.macs}, {})
    row = fit_to(np.zeros_like(SIZES), COSTING, limits, 1.0, np.random.default_rng(0))
    assert row is not None
    assert row.tolist() == (SIZES - 1).tolist()


def test_none_where_nothing_fits() -> None:
    smallest = COSTING.cost(SPACE.decode([0] * len(SIZES)))
    limits = Limits({"macs": smallest.macs - 1.0}, {})
    assert fit_to(SIZES - 1, COSTING, limits, 1.0, np.random.default_rng(0)) is None
    assert fit_to(np.zeros_like(SIZES), COSTING, limits, 1.0, np.random.default_rng(0)) is None


def test_the_only_candidate_that_fits_is_found() -> None:
    smallest = COSTING.cost(SPACE.decode([0] * len(SIZES)))
    limits = Limits({"macs": float(smallest.macs), "size": float(smallest.bytes)}, {})
    row = fit_to(SIZES - 1, COSTING, limits, 1.0, np.random.default_rng(0))
    assert row is not None
    assert limits.fits(COSTING.cost(SPACE.decode(row.tolist())))


def test_without_a_budget_indices_are_only_clipped() -> None:
    row = fit_to(np.full_like(SIZES, 99), COSTING, Limits({}, {}), 1.0, np.random.default_rng(0))
    assert row is not None
    assert row.tolist() == (SIZES - 1).tolist()


def test_few_costings_a_call() -> None:
    """What keeps a call quick for any space: a handful of vectorised costings, with few rows each."""
    rows: list[int] = []

    class Counting(Costing):
        def __call__(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
            rows.append(len(matrix))
            return super().__call__(matrix)

    space = FakeSpace(stages=4, blocks=13, sparse=4)
    assert len(space.variables) == 60
    costing = Counting(space, FakeLatency(space))
    limits = Budget(latency="80%", size="60%").resolve(costing.cost(space.largest()))
    sizes = np.array([len(v.choices) for v in space.variables])
    rng = np.random.default_rng(0)
    for _ in range(50):
        assert fit_to(rng.integers(0, sizes), costing, limits, 0.9, rng) is not None
    assert len(rows) / 50 <= 12
    assert sum(rows) / 50 <= 800


@pytest.mark.parametrize("tolerance", [0.02, 0.2])
def test_tolerance_is_where_growing_stops(tolerance: float) -> None:
    limits = Budget(macs="60%").resolve(TEACHER)
    rng = np.random.default_rng(3)
    for _ in range(10):
        row = fit_to(rng.integers(0, SIZES), COSTING, limits, 1.0, rng, tolerance)
        assert row is not None
        assert fraction(row, limits) >= 1 - tolerance
