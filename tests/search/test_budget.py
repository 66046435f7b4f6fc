"""Budgets: units, limits, refusals with numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from niwaki.search.budget import Budget, Costing, Limits, check_reachable, closest
from niwaki.search.units import UNITS, parse, show
from niwaki.spaces.errors import InputError
from niwaki.spaces.types import Cost
from tests.search.fake_space import FakeLatency, FakeSpace

TEACHER = Cost(macs=1_000_000, params=5_000, bytes=20_000, latency_ms=4.0)
SPACE = FakeSpace()
COSTING = Costing(SPACE, FakeLatency(SPACE))


@pytest.mark.parametrize(
    ("name", "text", "number"),
    [
        ("latency", "3ms", 3.0), ("latency", "800us", 0.8), ("latency", "0.5 s", 500.0), ("latency", 2.5, 2.5),
        ("latency", "50%", 2.0), ("latency", " 100 % ", 4.0), ("macs", "500M", 5e8), ("macs", "1.5G", 1.5e9),
        ("macs", "2B", 2e9), ("macs", "25k", 25e3), ("macs", "12_000", 12e3), ("macs", "12.5%", 125e3),
        ("params", "4M", 4e6), ("params", 1000, 1000.0), ("size", "2MB", 2e6), ("size", "10kB", 1e4),
        ("size", "10KB", 1e4), ("size", "1GB", 1e9), ("size", "512KiB", 512 * 1024), ("size", "2MiB", 2 * 2**20),
        ("size", "100B", 100.0), ("size", "1e3B", 1000.0), ("size", 12345, 12345.0),
    ],
)
def test_values(name: str, text: str | float, number: float) -> None:
    limits = Budget(**{name: text}).resolve(TEACHER)
    assert limits.values == {name: pytest.approx(number)}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("latency", "3MB"), ("latency", "fast"), ("latency", "-3ms"), ("latency", "0ms"), ("latency", ""),
        ("macs", "5m"), ("macs", "0%"), ("macs", "101%"), ("params", "nan"), ("params", float("nan")),
        ("params", float("inf")), ("params", -1), ("params", True), ("size", "2 MB or less"), ("size", "2mb"),
        ("size", "1e999B"), ("size", [3]),
    ],
)
def test_wrong_values_name_key_value_and_examples(name: str, value: Any) -> None:
    with pytest.raises(InputError) as caught:
        Budget(**{name: value})
    assert f"budget.{name}" in str(caught.value)
    assert repr(value) in str(caught.value)
    assert "examples: '" in str(caught.value)


def test_relative_latency_needs_the_teachers() -> None:
    with pytest.raises(ValueError, match="latency"):
        Budget(latency="50%").resolve(Cost(1, 1, 1))


@given(st.sampled_from(sorted(UNITS)), st.floats(1e-2, 1e12))
def test_what_is_shown_reads_back(name: str, number: float) -> None:
    assert parse(name, show(name, number).replace(" ", "")).number == pytest.approx(number, rel=1e-3)


def test_excess_and_fraction() -> None:
    limits = Budget(macs="50%", size="40kB").resolve(TEACHER)
    assert limits.excess(TEACHER) == {"macs": pytest.approx(1.0), "size": pytest.approx(-0.5)}
    assert not limits.fits(TEACHER)
    assert limits.fits(Cost(500_000, 1, 40_000))
    costs = {"macs": np.array([5e5, 1e5]), "size": np.array([1e4, 3e4]), "params": np.array([9e9, 9e9])}
    assert limits.fraction(costs).tolist() == pytest.approx([1.0, 0.75])
    assert Budget().resolve(TEACHER).fraction(costs).tolist() == [0.0, 0.0]


def test_capped_never_exceeds_what_the_row_takes() -> None:
    limits = Limits({"macs": 10.0, "size": 5.0}, {}).capped({"macs": np.array([4.0]), "size": np.array([9.0])})
    assert limits.values == {"macs": 4.0, "size": 5.0}


def test_costing_agrees_with_the_space_row_by_row() -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, [len(v.choices) for v in SPACE.variables], (20, len(SPACE.variables)))
    costs = COSTING(rows)
    assert set(costs) == {"macs", "params", "size", "latency"}
    for i, row in enumerate(rows):
        cost = COSTING.cost(SPACE.decode(row.tolist()))
        assert (costs["macs"][i], costs["params"][i], costs["size"][i]) == (cost.macs, cost.params, cost.bytes)
        assert costs["latency"][i] == pytest.approx(cost.latency_ms)
    assert set(Costing(SPACE)(rows)) == {"macs", "params", "size"}
    assert Costing(SPACE).cost(SPACE.largest()).latency_ms is None


def test_reachable_budgets_pass() -> None:
    teacher = COSTING.cost(SPACE.largest())
    check_reachable(Budget(latency="80%", size="60%", macs="60%").resolve(teacher), COSTING)
    check_reachable(Budget().resolve(teacher), COSTING)


def test_a_budget_below_the_smallest_candidate_is_refused_with_both_numbers() -> None:
    teacher = COSTING.cost(SPACE.largest())
    smallest = COSTING.cost(SPACE.smallest())
    with pytest.raises(InputError) as caught:
        check_reachable(Budget(latency="1us", size="10B", macs="90%").resolve(teacher), COSTING)
    text = str(caught.value)
    assert "latency 1 us is below the smallest candidate, " in text
    assert f"size 10 B is below the smallest candidate, {smallest.bytes} B" in text
    assert "macs" not in text


class Opposed:
    """A latency that rises where the size falls: each budget can be met alone, not both."""

    def predict(self, matrix: Any) -> Any:
        return 10.0 - 9.0 * (np.asarray(matrix) / [len(v.choices) - 1 for v in SPACE.variables]).mean(axis=1)


@pytest.mark.parametrize("share", [0.99, 0.5])
def test_one_byte_too_few_is_refused_and_just_enough_is_not(share: float) -> None:
    smallest = COSTING.cost(SPACE.smallest())
    check_reachable(Limits({"size": float(smallest.bytes)}, {"size": "B"}), COSTING)
    with pytest.raises(InputError, match=f"is below the smallest candidate, {smallest.bytes} B"):
        check_reachable(Limits({"size": smallest.bytes * share}, {"size": "B"}), COSTING)


def test_a_plateau_around_the_smallest_candidate_is_not_the_end() -> None:
    class Plateau:
        def predict(self, matrix: Any) -> Any:
            return np.where(np.asarray(matrix)[:, 0] >= 4, 1.0, 10.0)

    check_reachable(Limits({"latency": 2.0}, {}), Costing(SPACE, Plateau()))


def test_budgets_that_cannot_hold_together_are_refused_with_the_closest_candidate() -> None:
    costing = Costing(SPACE, Opposed())
    limits = Budget(latency="2ms", size="30%").resolve(costing.cost(SPACE.largest()))
    for name in limits.values:
        check_reachable(limits.only(name), costing)
    with pytest.raises(InputError, match=r"cannot hold together.*closest candidate found takes latency .* ms and size"):
        check_reachable(limits, costing)


def test_latency_need_not_be_least_at_the_smallest_candidate() -> None:
    costing = Costing(SPACE, Opposed())
    limits = Limits({"latency": 1.5}, {"latency": "ms"})
    assert not limits.fits(costing.cost(SPACE.smallest()))
    check_reachable(limits, costing)
    row, fraction = closest(limits, costing)
    assert fraction <= 1
    assert costing(row[None])["latency"][0] <= 1.5


def test_a_latency_budget_needs_a_latency_model() -> None:
    with pytest.raises(ValueError, match="latency model"):
        check_reachable(Limits({"latency": 1.0}, {}), Costing(SPACE))
