"""Calibration: which candidates are measured, and that the model is fitted to what the target says."""

import numpy as np
import pytest
import torch
from torch import nn

from niwaki.search.bench import TEACHER
from niwaki.search.latency import CalibrationPlan, calibrate, calibration_candidates
from niwaki.search.targets import MeasurePlan, Timing
from niwaki.spaces import carve, derive


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(),
        nn.Conv2d(48, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5),
    ).eval()


@pytest.fixture(scope="module")
def example():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def space(net, example):
    return derive(net, example)


def test_candidates_differ_and_cover_the_range(space):
    found = calibration_candidates(space, 24, seed=0)
    assert len({c.key for c in found}) == 24
    assert found[:2] == [space.largest(), space.smallest()]
    assert all(space.contains(c) for c in found)
    share = space.costs(found).macs / space.cost(space.largest()).macs
    assert np.histogram(share, bins=[0, 0.2, 0.4, 0.6, 1.01])[0].min() >= 2
    assert calibration_candidates(space, 24, seed=0) == found
    assert calibration_candidates(space, 24, seed=1) != found


def test_a_small_space_gives_all_it_has(net, example):
    from niwaki.spaces import SpaceOptions

    tiny = derive(net, example, SpaceOptions(ratios=(0.5, 1.0)))
    assert len(calibration_candidates(tiny, 50, seed=0)) == 8  # two widths for each of three groups


class FakeBench:
    """A target whose latency is known exactly: 1 us for 10,000 MACs and 50 us for nothing at all."""

    reason = None

    def __init__(self, net, space):
        self.net, self.space, self.asked = net, space, []

    def truth(self, candidate):
        model = carve(self.net, self.space, candidate)
        weights = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        macs = sum(m.weight.numel() * (256 if isinstance(m, nn.Conv2d) else 1) for m in weights)
        return 0.05 + macs / 1e7

    def time(self, candidates, plan, progress=None):
        self.asked.append((len(candidates), plan))
        ms = {c.key: self.truth(c) for c in candidates} | {TEACHER: 2 * self.truth(self.space.largest())}
        return Timing(ms, dict.fromkeys(ms, 0.01), dropped=0.25)

    def profile(self, candidates, runs=20):
        return {}

    def machine(self):
        return {"target": "fake:threads=1"}

    def close(self):
        self.closed = True


def test_the_model_is_fitted_to_what_the_bench_measured(net, space):
    bench, plan = FakeBench(net, space), CalibrationPlan(16, MeasurePlan(2, 0.01), seed=3)
    model = calibrate(bench, plan)
    assert bench.asked == [(16, plan.measure)]
    assert model.anchor_ms == pytest.approx(2 * bench.truth(space.largest()))
    unseen = calibration_candidates(space, 12, seed=8)[2:]
    matrix = np.array([space.encode(c) for c in unseen])
    assert model.predict(matrix) == pytest.approx([bench.truth(c) for c in unseen], rel=0.02)
    assert model.source["target"] == "fake:threads=1"
    assert model.source["interrupted_runs"] == 0.25
