"""Calibration: which candidates are measured, and that the model is fitted to what the target says."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from niwaki.search import latency
from niwaki.search.latency import TEACHER, CalibrationPlan, calibrate, calibration_candidates, remeasure, speed_ups
from niwaki.search.targets import MeasurePlan, Timing, parse
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


def test_the_model_is_fitted_to_what_the_target_measured(net, example, space, monkeypatch):
    """A target whose latency is known exactly: 1 us for 10,000 MACs and 50 us for nothing at all."""
    asked = []

    def truth(model):
        weights = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        macs = sum(m.weight.numel() * (256 if isinstance(m, nn.Conv2d) else 1) for m in weights)
        return 0.05 + macs / 1e7

    def measured(target, models, inputs, plan, progress):
        asked.append((plan, inputs is example))
        progress(1, 1)
        return Timing({k: truth(m) for k, m in models.items()}, dict.fromkeys(models, 0.01), dropped=0.25)

    monkeypatch.setattr(latency, "measure", measured)
    steps, plan = [], CalibrationPlan(16, MeasurePlan(2, 0.01), seed=3)
    model = calibrate(space, lambda c: carve(net, space, c), parse("torch"), example, plan, lambda *s: steps.append(s))
    assert asked == [(plan.measure, True)]
    assert steps == [(1, 1)]
    assert model.anchor_ms == pytest.approx(truth(net))
    other = nn.Sequential(net, nn.Linear(5, 2000))
    anchored = calibrate(space, lambda c: carve(net, space, c), parse("torch"), example, replace(plan, teacher=other),
                         lambda *s: None)
    assert anchored.anchor_ms == pytest.approx(truth(other))
    unseen = calibration_candidates(space, 12, seed=8)[2:]
    expected = [truth(carve(net, space, c)) for c in unseen]
    matrix = np.array([space.encode(c) for c in unseen])
    assert model.predict(matrix) == pytest.approx(expected, rel=0.02)
    assert model.source["target"].startswith("torch:threads=1")
    assert model.source["interrupted_runs"] == 0.25


@dataclass(frozen=True)
class Sleepless:
    """A runtime that takes no time; only the bookkeeping around it is of interest."""

    threads: int = 1
    batch: int = 1

    def prepare(self, model, inputs):
        return lambda: model(*inputs)

    def version(self):
        return "sleepless 1"


def test_members_are_measured_beside_the_teacher(net, example, space):
    members = {"m1": carve(net, space, space.smallest())}
    timing = remeasure(members, net, Sleepless(), example, MeasurePlan(2, 0.0, 2))
    assert set(timing.ms) == {TEACHER, "m1"}
    assert speed_ups(timing) == {"m1": timing.ms[TEACHER] / timing.ms["m1"]}
    with pytest.raises(ValueError, match="'teacher'"):
        remeasure({TEACHER: net}, net, Sleepless(), example)
