"""Aiming: the candidate measures just under the limit though predictions are wrong, and other budgets hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from niwaki.search.aim import aim, retained, spend
from niwaki.search.budget import Budget
from niwaki.search.costing import Costing
from niwaki.spaces.types import Candidate
from tests.search.fake_space import FakeLatency, FakeSpace

SPACE = FakeSpace(stages=3, blocks=4, sparse=3)
COSTING = Costing(SPACE, FakeLatency(SPACE))
TEACHER = COSTING.cost(SPACE.largest())
SIZES = np.array([len(v.choices) for v in SPACE.variables])
GENERATOR = torch.Generator().manual_seed(1)
WORTH = retained(SPACE, {n: torch.rand(c[-1], generator=GENERATOR) for n, c in SPACE.widths.items()})


class Machine:
    """The truth: 15 % slower than predicted, and another 5 % for each layer that was dropped."""

    def __init__(self) -> None:
        self.measured: list[Candidate] = []

    def __call__(self, candidates: Sequence[Candidate]) -> dict[str, float]:
        self.measured += candidates
        return {c.key: COSTING.cost(c).latency_ms * 1.15 * 1.05 ** len(c.skipped) for c in candidates}  # type: ignore[operator]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.floats(0.6, 0.9))
def test_lands_just_under_the_limit_from_anywhere(seed: int, share: float) -> None:
    limits = Budget(latency=f"{share:.0%}").resolve(TEACHER)
    start = SPACE.canonical(SPACE.decode(np.random.default_rng(seed).integers(0, SIZES).tolist()))
    machine = Machine()
    found = aim(start, limits, COSTING, WORTH, machine)
    assert found.measured_ms == machine([found.candidate])[found.candidate.key]
    assert 0.95 <= found.measured_ms / limits.values["latency"] <= 1.0
    assert len(found.tries) <= 1 + 3 * 4


def test_what_is_in_the_band_is_left_alone() -> None:
    limits = Budget(latency="70%").resolve(TEACHER)
    once = aim(SPACE.largest(), limits, COSTING, WORTH, Machine())
    again = aim(once.candidate, limits, COSTING, WORTH, Machine())
    assert again.candidate == once.candidate
    assert len(again.tries) == 1


def test_other_budgets_hold_and_may_be_the_tighter_ones() -> None:
    limits = Budget(latency="95%", size="30%").resolve(TEACHER)
    found = aim(SPACE.largest(), limits, COSTING, WORTH, Machine())
    cost = COSTING.cost(found.candidate)
    assert 0.95 <= cost.bytes / limits.values["size"] <= 1.0
    assert found.measured_ms <= limits.values["latency"]


def test_an_unreachable_limit_ends_with_the_nearest() -> None:
    limits = Budget(latency=f"{COSTING.cost(SPACE.smallest()).latency_ms * 0.5}ms").resolve(TEACHER)  # type: ignore[operator]
    found = aim(SPACE.largest(), limits, COSTING, WORTH, Machine())
    assert found.measured_ms > limits.values["latency"]
    assert found.candidate == SPACE.smallest()


def test_latency_is_spent_where_it_buys_most() -> None:
    """Nothing more fits, and it is worth more than what spending without regard to worth gives."""
    limits = Budget(latency="60%").resolve(TEACHER)
    point = spend(SIZES - 1, limits, COSTING, WORTH)
    assert limits.fraction(COSTING(point[None]))[0] <= 1
    ups = [point + e for e in np.eye(len(point), dtype=np.int64) if (point + e < SIZES).all()]
    assert all(limits.fraction(COSTING(u[None]))[0] > 1 for u in ups)
    rng = np.random.default_rng(0)
    others = [spend(rng.integers(0, SIZES), limits, COSTING, lambda m: np.zeros(len(m))) for _ in range(10)]
    assert WORTH(point[None])[0] > np.mean([WORTH(o[None])[0] for o in others])


def test_worth_is_the_share_of_scores_kept() -> None:
    layer, choices = next(iter(SPACE.widths.items()))
    scores = torch.zeros(choices[-1])
    scores[:3] = 1.0  # three units matter, so widths of 3 and more lose nothing
    worth = retained(SPACE, {layer: scores})
    rows = np.repeat((SIZES - 1)[None], len(choices), axis=0)
    rows[:, 0] = np.arange(len(choices))
    assert worth(rows) == pytest.approx(worth((SIZES - 1)[None])[0] * np.ones(len(choices)), abs=0.05)
    depth = next(i for i, v in enumerate(SPACE.variables) if v.kind == "depth")
    rows = (SIZES - 1)[None].repeat(2, axis=0)
    rows[1, depth] = 0
    assert worth(rows)[1] < worth(rows)[0]


def test_limits_without_latency_are_refused() -> None:
    with pytest.raises(ValueError, match="no latency"):
        aim(SPACE.largest(), Budget(size="50%").resolve(TEACHER), COSTING, WORTH, Machine())
