"""A bench times what it is given beside the teacher, and takes the faster way where a target has one."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from niwaki.search.bench import TEACHER, Bench
from niwaki.search.targets import MeasurePlan, parse
from niwaki.spaces import derive


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()


@pytest.fixture(scope="module")
def space(net):
    return derive(net, torch.zeros(2, 8))


PLAN = MeasurePlan(rounds=2, seconds=0.0, runs=2)


def test_candidates_are_timed_beside_the_teacher(net, space):
    steps = []
    timing = Bench(net, space, parse("torch:batch=3"), torch.zeros(2, 8)).time(
        [space.smallest(), space.largest()], PLAN, lambda done, total: steps.append((done, total))
    )
    assert set(timing.ms) == {TEACHER, space.smallest().key, space.largest().key}
    assert all(ms > 0 for ms in timing.ms.values())
    assert steps[-1][0] == steps[-1][1]
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)


@dataclass(frozen=True)
class Made:
    """Counts what is asked of it."""

    asked: list

    reason = "the table is small"

    def __call__(self, candidate):
        self.asked.append(candidate)
        return lambda: None

    def profile(self, candidate, runs):
        return {"linear": 0.5 * runs} if candidate.widths else {}


@dataclass(frozen=True)
class Quick:
    """A runtime that makes candidates its own way."""

    threads: int = 1
    batch: int = 1
    asked: ClassVar[list] = []

    def prepare(self, model, inputs):
        raise AssertionError("the faster way was not taken")

    def maker(self, space, make, inputs):
        assert isinstance(make(space.smallest()), nn.Module)
        assert [tuple(t.shape) for t in inputs] == [(3, 8)]
        return Made(self.asked)

    def version(self):
        return "quick 1"


def test_a_target_may_make_candidates_its_own_way(net, space):
    bench = Bench(net, space, Quick(batch=3), torch.zeros(2, 8))
    bench.time([space.smallest()], PLAN)
    bench.time([space.largest()], PLAN)
    assert Quick.asked == [space.largest(), space.smallest(), space.largest()]  # the teacher once, then what was asked
    assert bench.reason == "the table is small"
    assert bench.profile([space.smallest()], 4) == {space.smallest().key: {"linear": 2.0}}
