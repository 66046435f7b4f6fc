"""The interval against simulated measurements: it must hold as often as it says, whatever the delays look like."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from niwaki.search.targets._interval import interval

ROUNDS = st.lists(st.floats(1e-5, 1e-3), min_size=2, max_size=20)


def simulated(draw, rounds, times=4000):
    """(share of repetitions inside, share of undisturbed times above the lower end), undisturbed time 1."""
    generator = np.random.default_rng(0)
    inside = above = 0
    for _ in range(times):
        low, high = interval((1 + 0.05 * draw(generator, rounds)).tolist())
        again = 1 + 0.05 * draw(generator, rounds).min()
        inside += low <= again <= high
        above += low <= 1
    return inside / times, above / times


@pytest.mark.parametrize("rounds", [2, 3, 4, 8, 16, 24])  # blocks of equal size
def test_it_holds_exactly_for_exponential_delays(rounds):
    inside, above = simulated(lambda generator, n: generator.exponential(size=n), rounds)
    assert inside == pytest.approx(0.9, abs=0.016)  # 3.4 standard errors of 4000 draws
    assert above == pytest.approx(0.9, abs=0.016)


OTHERS = {
    "uniform": (lambda g, n: g.uniform(size=n), 0.78),
    "half normal": (lambda g, n: np.abs(g.normal(size=n)), 0.82),
    "gamma of shape 2": (lambda g, n: g.gamma(2, size=n), 0.78),
    "log-normal": (lambda g, n: g.lognormal(size=n), 0.85),
    "heavy tail": (lambda g, n: g.pareto(2, size=n), 0.9),
    "a busy quarter": (lambda g, n: g.exponential(size=n) * np.where(g.random(n) < 0.25, 10, 1), 0.9),
}
"""Delays, and how often the interval of 8 rounds has to hold for them at least."""


@pytest.mark.parametrize("name", OTHERS)
def test_it_nearly_holds_for_other_delays(name):
    draw, least = OTHERS[name]
    inside, _ = simulated(draw, 8)
    assert inside >= least


@pytest.mark.parametrize("rounds", [5, 6, 7, 9, 11, 13])
def test_blocks_of_unequal_size_make_it_a_little_wider_or_narrower(rounds):
    inside, _ = simulated(lambda generator, n: generator.exponential(size=n), rounds)
    assert inside == pytest.approx(0.9, abs=0.04)


def test_a_round_in_which_the_machine_stood_still_does_not_matter():
    assert interval([1.0, 1.1, 1.2, 15.0, 1.3, 1.4, 1.1, 1.2]) == interval([1.0, 1.1, 1.2, 1.2, 1.3, 1.4, 1.1, 1.2])


@given(st.lists(st.floats(1e-5, 1e-3), min_size=4, max_size=4), st.integers(2, 5))
def test_rounds_that_say_the_same_again_do_not_narrow_it(rounds, times):
    assert interval([r for r in rounds for _ in range(times)]) == interval(rounds)


def test_long_phases_are_seen():
    """Delays that last three rounds: were rounds independent, the interval would hold less often."""

    def phases(generator, n):
        levels, start = generator.exponential(size=n // 3 + 2), generator.integers(3)
        return np.repeat(levels, 3)[start: start + n]

    assert simulated(phases, 24)[0] > 0.8


def blocks(rounds):
    """The slow way: least times of at most four runs of rounds, cut as evenly as whole rounds allow."""
    count = min(len(rounds), 4)
    found = [[] for _ in range(count)]
    for position, value in enumerate(rounds):
        found[next(b for b in range(count) if position < len(rounds) * (b + 1) // count)].append(value)
    return [min(block) for block in found]


@given(ROUNDS, st.floats(0.1, 10), st.randoms(use_true_random=False))
def test_it_is_that_of_the_blocks_in_any_unit_and_order_of_blocks(rounds, unit, random):
    low, high = interval(rounds)
    found = blocks(rounds)
    assert low <= min(rounds) <= high
    assert interval(random.sample(found, len(found))) == pytest.approx((low, high), abs=1e-12)
    assert interval([r * unit for r in rounds]) == pytest.approx((low * unit, high * unit), abs=1e-9)
    excess = sum(f - min(found) for f in found)
    if excess > 1e-9:  # below, rounding is all there is
        assert (1 + len(found) * (high - min(found)) / excess) ** -(len(found) - 1) == pytest.approx(0.1, rel=1e-4)


def test_equal_rounds_leave_no_doubt_and_one_round_leaves_all():
    assert interval([3.0] * 5) == (3.0, 3.0)
    assert all(np.isnan(interval([3.0])))
