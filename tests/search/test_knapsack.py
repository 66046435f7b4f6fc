"""Against brute force on all candidates of small spaces, and against the optimum where costs add up."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from niwaki.search.aim import Worth
from niwaki.search.costing import Costing, Limits
from niwaki.search.knapsack import exchanged, knapsack
from tests.search.fake_space import FakeLatency, FakeSpace

BUDGETS = (("macs",), ("latency", "size"), ("memory", "params"), ("macs", "params", "size"))


def harm(space: Any, rng: np.random.Generator) -> Worth:
    """Minus a sum over the variables of figures that fall to 0 at the largest choice."""
    tables = [np.sort(np.append(rng.exponential(size=len(v.choices) - 1) * 10 ** rng.uniform(-1.5, 0), 0))[::-1]
              for v in space.variables]
    return lambda m: -np.sum([t[m[:, i]] for i, t in enumerate(tables)], axis=0)


def case(seed: int) -> tuple[Costing, Limits, Worth, np.ndarray]:
    """A space of at most 16,384 candidates, one of the sets of budgets, and all candidates as rows."""
    rng = np.random.default_rng(seed)
    stages, blocks = int(rng.integers(1, 3)), int(rng.integers(2, 4))
    space = FakeSpace(stages, blocks, units=8, sparse=int(rng.integers(0, 2)), choices=4)
    costing = Costing(space, FakeLatency(space), memory=True)
    grid = np.array(list(itertools.product(*(range(len(v.choices)) for v in space.variables))))
    full = costing(grid[-1:])
    limits = Limits({n: float(full[n][0]) * rng.uniform(0.3, 0.95) for n in BUDGETS[seed % 4]}, {})
    return costing, limits, harm(space, rng), grid


def test_nearly_always_the_optimum_of_brute_force() -> None:
    gaps = []
    for seed in range(40):
        costing, limits, worth, grid = case(seed)
        fitting = grid[limits.fraction(costing(grid)) <= 1]
        found = knapsack(costing, limits, worth)
        if not len(fitting):
            assert found is None
            continue
        assert found is not None
        row = np.array([costing.space.encode(found)])
        assert limits.fraction(costing(row))[0] <= 1
        best, mean = worth(fitting).max(), worth(fitting).mean()
        gaps.append((best - worth(row)[0]) / (best - mean) if best > mean else 0.0)
    print(f"optimal in {np.mean(np.array(gaps) < 1e-9):.0%} of {len(gaps)}, mean gap {np.mean(gaps):.3%}")
    assert len(gaps) >= 30
    assert np.mean(np.array(gaps) < 1e-9) >= 0.85
    assert np.mean(gaps) < 0.005


class Chain:
    """Costs that add up over the variables: ``prices[v][choice]`` MACs, whole numbers."""

    def __init__(self, prices: list[np.ndarray]) -> None:
        from niwaki.spaces.types import Variable

        self.prices = prices
        self.variables = tuple(Variable(f"g{i}", "width", tuple(range(1, len(p) + 1))) for i, p in enumerate(prices))

    def costs(self, matrix: np.ndarray) -> Any:
        from types import SimpleNamespace

        total = np.sum([p[matrix[:, i]] for i, p in enumerate(self.prices)], axis=0)
        return SimpleNamespace(macs=total, params=total, bytes=total)

    def decode(self, indices: list[int]) -> tuple[int, ...]:
        return tuple(indices)

    def canonical(self, candidate: Any) -> Any:
        return candidate


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.floats(0.3, 0.9))
def test_near_the_optimum_where_costs_add_up(seed: int, share: float) -> None:
    """The textbook recursion over whole-number capacities gives the optimum of 12 variables with 6 choices."""
    rng = np.random.default_rng(seed)
    space = Chain([np.cumsum(rng.integers(1, 30, 6)) for _ in range(12)])
    tables = [np.append(np.sort(rng.exponential(size=5))[::-1], 0.0) for _ in space.prices]
    least, most = (sum(int(p[i]) for p in space.prices) for i in (0, -1))
    capacity = int(least + share * (most - least))
    optimum = np.zeros(capacity + 1)  # least harm of the variables so far within each capacity
    for price, table in zip(space.prices, tables, strict=True):
        after = np.full(capacity + 1, np.inf)
        for p, h in zip(price, table, strict=True):
            after[p:] = np.minimum(after[p:], optimum[: capacity + 1 - p] + h)
        optimum = after
    found = knapsack(
        Costing(space), Limits({"macs": float(capacity)}, {}),  # type: ignore[arg-type]
        lambda m: -np.sum([t[m[:, i]] for i, t in enumerate(tables)], axis=0),
    )  # fmt: skip
    harms = sum(t[i] for t, i in zip(tables, found, strict=True))  # type: ignore[arg-type]
    assert sum(int(p[i]) for p, i in zip(space.prices, found, strict=True)) <= capacity  # type: ignore[arg-type]
    assert optimum[-1] - 1e-9 <= harms <= optimum[-1] + 0.03 * sum(t[0] for t in tables)


def test_exchanges_only_ever_gain_and_end_where_no_pair_does() -> None:
    costing, limits, worth, grid = case(3)
    sizes = grid.max(axis=0) + 1
    start = next(row for row in grid[np.random.default_rng(0).permutation(len(grid))]
                 if limits.fraction(costing(row[None]))[0] <= 1)
    point = exchanged(start, limits, costing, worth)
    assert limits.fraction(costing(point[None]))[0] <= 1
    assert worth(point[None])[0] >= worth(start[None])[0]
    singles = [np.where(np.arange(len(sizes)) == v, i, point) for v, n in enumerate(sizes) for i in range(n)]
    fits = np.array([limits.fraction(costing(row[None]))[0] <= 1 for row in singles])
    assert worth(np.array(singles)[fits]).max() <= worth(point[None])[0] + 1e-9


def test_a_loose_budget_leaves_everything_and_none_fits_where_nothing_does() -> None:
    costing, limits, worth, _ = case(0)
    space = costing.space
    assert knapsack(costing, limits.times(1e6), worth) == space.largest()
    assert knapsack(costing, limits.times(1e-6), worth) is None


@pytest.mark.parametrize("seed", range(3))
def test_deterministic(seed: int) -> None:
    costing, limits, worth, _ = case(seed)
    assert knapsack(costing, limits, worth) == knapsack(costing, limits, worth)


def test_many_choices_are_thinned_and_still_solved_well() -> None:
    """57 choices of each of 9 widths: more single changes than are paired; never worse than any of many random fits."""
    space = FakeSpace(3, 3, units=64, choices=57)
    costing = Costing(space)
    rng = np.random.default_rng(0)
    worth = harm(space, rng)
    limits = Limits({"macs": 0.5 * costing.cost(space.largest()).macs}, {})
    found = knapsack(costing, limits, worth)
    assert found is not None
    draws = rng.integers(0, [len(v.choices) for v in space.variables], (20_000, len(space.variables)))
    draws = draws[limits.fraction(costing(draws)) <= 1]
    assert len(draws) > 100
    assert worth(np.array([space.encode(found)]))[0] > worth(draws).max()
