"""The mechanisms of TAS one by one, each against what it is defined to be (METHODS.md 1(c))."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from niwaki.search.costing import Costing, Ints
from niwaki.search.tas.expected import Expectation, expected_macs
from niwaki.search.tas.interpolate import interpolate
from niwaki.search.tas.sampling import draw, label, pair, temperature
from niwaki.search.tas.steering import cost_loss, directions
from niwaki.spaces import Space, SpaceOptions, Variable, derive
from tests.search.fake_space import FakeLatency, FakeSpace
from tests.spaces.test_tas_replay import WIDTHS, TasResNet


def by_loop(x: Tensor, dim: int, channels: int) -> Tensor:
    """Channel-wise interpolation, version 1: the mean of each output's range of inputs."""
    moved, size = x.movedim(dim, 0), x.shape[dim]
    ranges = [(o * size // channels, -(-(o + 1) * size // channels)) for o in range(channels)]
    return torch.stack([moved[a:b].mean(0) for a, b in ranges]).movedim(0, dim)


@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_interpolation_is_the_loop(size: int, channels: int, dim: int) -> None:
    shape = [3, 2, 2]
    shape[dim] = size
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(interpolate(x, dim, channels), by_loop(x, dim, channels))


def test_interpolation_to_the_same_width_changes_nothing_and_keeps_means_where_widths_divide() -> None:
    x = torch.randn(2, 6, 5, 5)
    assert torch.equal(interpolate(x, 1, 6), x)
    torch.testing.assert_close(interpolate(x, 1, 18).mean(1), x.mean(1))
    torch.testing.assert_close(interpolate(x, 1, 3).mean(1), x.mean(1))


def test_two_distinct_widths_always_and_weights_that_sum_to_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for tau, size in itertools.product((10.0, 1.0, 0.1), (2, 3, 8)):
        for _ in range(100):
            found = pair(torch.randn(size, generator=generator) * 5, tau, generator)
            assert found.first != found.second
            assert float(found.weights.sum()) == pytest.approx(1, abs=1e-6)


def test_the_task_moves_two_of_eight_logits() -> None:
    logits = torch.randn(8).requires_grad_()
    found = pair(logits, 1.0, torch.Generator().manual_seed(1))
    (grad,) = torch.autograd.grad((found.weights * torch.tensor([3.0, -2.0])).sum(), logits)
    # softmax over the two noisy log-probabilities: what log_softmax takes from all logits cancels between the two
    assert {i for i in range(8) if abs(float(grad[i])) > 1e-7} == {found.first, found.second}


def test_cold_draws_follow_the_softmax() -> None:
    """Gumbel-max: at a low temperature the heavier of the two is the likeliest choice with its probability."""
    logits = torch.tensor([1.0, 0.0, -1.0, 0.5])
    generator, count = torch.Generator().manual_seed(2), 4000
    tops = torch.zeros(4)
    for _ in range(count):
        found = pair(logits, 0.1, generator)
        tops[found.first if found.weights[0] > found.weights[1] else found.second] += 1
    expected = logits.softmax(0)
    error = 4 * (expected * (1 - expected) / count).sqrt() + 0.01  # the two are drawn, not the two best: a small bias
    assert bool(((tops / count - expected).abs() < error).all())


def test_depths_are_drawn_whole() -> None:
    variable = Variable("stage", "depth", (1, 2, 3))
    logits = {label(variable): torch.zeros(3, requires_grad=True)}
    found = draw((variable,), logits, 1.0, torch.Generator().manual_seed(0)).depths["stage"]
    assert found.shape == (3,)
    assert float(found.detach().sum()) == pytest.approx(1)
    (grad,) = torch.autograd.grad(found[0], list(logits.values()))
    assert bool((grad != 0).all())


def test_temperatures_of_paper_and_code() -> None:
    assert [temperature(p, "linear") for p in (0, 1)] == [10.0, pytest.approx(0.1)]
    assert [temperature(p, "cosine") for p in (0, 1)] == [5.0, pytest.approx(0.1)]
    assert temperature(0.25, "cosine") == pytest.approx(0.1 + 4.9 * (1 + math.cos(math.pi / 4)) / 2)


@given(st.floats(1, 100), st.floats(10, 100), st.floats(0, 0.2))
def test_the_band_of_one_budget(cost: float, limit: float, tolerance: float) -> None:
    pushed = directions({"macs": cost}, {"macs": limit}, {"macs": 100.0}, tolerance)
    expected = torch.tensor(7.0, requires_grad=True)
    loss = cost_loss({"macs": expected.log()}, pushed)
    if limit - tolerance * 100 <= cost <= limit:
        assert float(loss) == 0
        assert not loss.requires_grad
    else:
        assert float(loss) == pytest.approx(math.log(7) if cost > limit else -math.log(7))


def test_of_several_budgets_the_broken_ones_rule_then_the_tightest() -> None:
    limits, largest = {"macs": 50.0, "size": 40.0}, {"macs": 100.0, "size": 100.0}
    assert directions({"macs": 60, "size": 10}, limits, largest) == {"macs": 1}
    assert directions({"macs": 60, "size": 50}, limits, largest) == {"macs": 1, "size": 1}
    assert directions({"macs": 20, "size": 30}, limits, largest) == {"size": -1}
    assert directions({"macs": 20, "size": 38}, limits, largest) == {}
    assert directions({"macs": 20}, {}, {}) == {}


@pytest.fixture(scope="module")
def resnet() -> Space:
    return derive(TasResNet(2), torch.zeros(2, 3, 32, 32), SpaceOptions(step=1))


def chances_of(space: Space | FakeSpace, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        label(v): torch.randn(len(v.choices), generator=generator, dtype=torch.float64).softmax(0).requires_grad_()
        for v in space.variables if v.kind != "sparsity"
    }  # fmt: skip


def test_expected_macs_by_closed_form(resnet: Space) -> None:
    """k^2 * positions * E[in] * E[out] for every convolution, each block times P(depth >= its place)."""
    chances = chances_of(resnet, 3)

    def mean(name: str) -> float:
        return float(sum(p * c for p, c in zip(chances[f"width {name}"], resnet.widths[name], strict=True)))

    def stays(stage: str, place: int) -> float:
        depth = next((v for v in resnet.variables if v.kind == "depth" and v.name == stage), None)
        pairs = zip(chances[f"depth {stage}"], depth.choices, strict=True) if depth else []
        return float(sum(p for p, k in pairs if int(k) > place)) if depth else 1.0

    streams = [mean(name) for name in ("stem.0", "stages.1.0.conv_b", "stages.2.0.conv_b")]
    total = 32 * 32 * 27 * streams[0] + 10 * streams[2]
    places = {b.name: b for b in resnet.blocks}
    for s, c in enumerate(streams):
        side = 32 // 2**s
        total += side * side * streams[s - 1] * c if s else 0
        for b in range(2):
            entering, name = streams[s - 1] if s and b == 0 else c, f"stages.{s}.{b}"
            chance = stays(places[name].stage, places[name].position) if name in places else 1.0
            total += chance * side * side * 9 * mean(f"{name}.conv_a") * (entering + c)
    found = expected_macs(resnet, chances)
    assert float(found) == pytest.approx(total, rel=1e-9)
    assert len(places) >= 3
    grads = torch.autograd.grad(found.log(), list(chances.values()))
    assert all(bool((g != 0).any()) for g in grads)
    assert all(bool((g != 0).all()) for g, key in zip(grads, chances, strict=True) if key.startswith("width"))


def test_expected_macs_of_one_candidate_are_its_macs(resnet: Space) -> None:
    generator = torch.Generator().manual_seed(5)
    for _ in range(5):
        candidate = resnet.sample(generator)
        row = resnet.encode(candidate)
        sure = {
            label(v): nn.functional.one_hot(torch.tensor(i), len(v.choices)).double()
            for v, i in zip(resnet.variables, row, strict=True)
        }
        assert float(expected_macs(resnet, sure)) == resnet.cost(candidate).macs
    assert max(WIDTHS) == 64


def test_expected_latency_is_exact_where_one_variable_is_uncertain() -> None:
    space = FakeSpace(stages=2, blocks=2)
    costing = Costing(space, FakeLatency(space))  # type: ignore[arg-type]
    expectation = Expectation(costing, ["latency", "size"])
    row = np.array([int(i) for i in space.encode(space.uniform(0.6))], dtype=np.int64)
    sure = {
        label(v): nn.functional.one_hot(torch.tensor(int(i)), len(v.choices)).double()
        for v, i in zip(space.variables, row, strict=True) if v.kind != "sparsity"
    }  # fmt: skip
    for k, v in enumerate(space.variables):
        if v.kind == "sparsity":
            continue
        p = torch.linspace(1, 2, len(v.choices), dtype=torch.float64)
        p = (p / p.sum()).requires_grad_()
        rows: Ints = np.repeat(row[None], len(v.choices), axis=0)
        rows[:, k] = range(len(v.choices))
        found = expectation(row, sure | {label(v): p})
        for name in ("latency", "size"):
            costs = costing(rows)[name]
            assert float(found[name].exp()) == pytest.approx(float(p.detach().numpy() @ costs))
        (grad,) = torch.autograd.grad(found["latency"], p)
        assert bool((grad > 0).all())
