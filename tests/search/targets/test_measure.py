"""Timing by made-up clocks: what is run, how often, in which order, what is dropped, and what is said about it."""

import json
import math
import os
import time
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from niwaki.search.targets import MeasurePlan, _measure, measure, measure_runs, repeated
from niwaki.search.targets._timing import Clock, Estimate, Timing, _wall, thread_timer, timer_of
from niwaki.search.targets._warnings import company, lacks
from niwaki.spaces.errors import InputError


@dataclass(frozen=True)
class Recorder:
    """A runtime that notes what happens instead of computing."""

    log: list
    threads: int = 1
    batch: int = 3
    shape: str = ""

    def prepare(self, model, inputs):
        self.log.append(("prepare", torch.get_num_threads(), inputs[0].shape))
        return lambda: self.log.append(model.name)

    def version(self):
        return "recorder 1"


def _named(*names):
    models = {}
    for name in names:
        models[name] = nn.Identity()
        models[name].name = name
    return models


@pytest.fixture
def clock(monkeypatch):
    """A wall clock and a CPU clock that a fake run moves by hand."""

    class FakeClock:
        wall = cpu = 0.0

    monkeypatch.setattr(time, "perf_counter", lambda: FakeClock.wall)
    monkeypatch.setattr(time, "thread_time", lambda: FakeClock.cpu)
    return FakeClock


def _scripted(clock, steps):
    """A run that takes the (wall, cpu) milliseconds of ``steps`` in turn, the last one for ever."""
    done = []

    def run():
        wall, cpu = steps[min(len(done), len(steps) - 1)]
        done.append(wall)
        clock.wall += wall / 1e3
        clock.cpu += cpu / 1e3

    run.done = done
    return run


def _steady(*milliseconds):
    return [(ms, ms) for ms in milliseconds]


def test_rounds_are_interleaved_and_every_model_gets_its_runs():
    log, steps = [], []
    plan = MeasurePlan(rounds=4, seconds=0.0, runs=6, extra_rounds=0)
    measure(Recorder(log), _named("a", "b", "c"), torch.zeros(2, 5, 7), plan, lambda *step: steps.append(step))
    assert log[:3] == [("prepare", 1, (3, 5, 7))] * 3
    blocks = [log[3 + i: 6 + i] for i in range(0, len(log) - 3, 3)]  # 1 warm-up and 2 runs a model and round
    assert all(len(set(block)) == 1 for block in blocks)
    rounds = [[block[0] for block in blocks[i: i + 3]] for i in range(0, 12, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1
    assert steps == [(i, 7) for i in range(1, 8)]


def test_runs_made_before_are_timed_the_same_way(clock):
    runs = {"a": _scripted(clock, _steady(4, 3, 2.01)), "b": _scripted(clock, _steady(1))}
    steps = []
    timing = measure_runs(runs, MeasurePlan(2, 0.0, 4), Recorder([]), lambda *step: steps.append(step))
    assert timing.ms == pytest.approx({"a": 2.01, "b": 1.0})
    assert steps == [(1, 2), (2, 2)]
    assert not timing.noisy
    assert timing.low["b"] == pytest.approx(1) == timing.high["b"]


def test_time_is_spent_where_runs_are_short(clock):
    run = _scripted(clock, _steady(1))
    measure_runs({"a": run}, MeasurePlan(rounds=4, seconds=0.4, runs=8), Recorder([]))
    assert len(run.done) == pytest.approx(4 * (1 + 100), abs=4)


def test_threads_are_restored_after_a_failure():
    @dataclass(frozen=True)
    class Broken(Recorder):
        def prepare(self, model, inputs):
            raise RuntimeError("no")

    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="no"):
        measure(Broken([], threads=threads + 1), _named("a"), torch.zeros(1, 2))
    assert torch.get_num_threads() == threads


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_one_thread_stays_on_one_core_until_the_end_or_an_error(clock):
    before, seen = os.sched_getaffinity(0), []

    def failing():
        seen.append(os.sched_getaffinity(0))
        if len(seen) > 5:
            raise RuntimeError("broken")
        clock.wall += 1e-3
        clock.cpu += 1e-3

    with pytest.raises(RuntimeError, match="broken"):
        measure_runs({"a": failing}, MeasurePlan(2, 0.0, 8), Recorder([]))
    assert len(set(map(frozenset, seen))) == 1
    assert len(seen[0]) == 1
    assert seen[0] <= before
    assert os.sched_getaffinity(0) == before
    seen.clear()
    with pytest.raises(RuntimeError, match="broken"):
        measure_runs({"a": failing}, MeasurePlan(2, 0.0, 8), Recorder([], threads=2))
    assert set(map(frozenset, seen)) == {frozenset(before)}


def test_noisy_models_and_the_teacher_get_further_rounds_until_all_is_clear(clock):
    noisy = _scripted(clock, _steady(1, 10, 1, 12, *[1, 10] * 9))  # warm-up, run, warm-up, run, ...
    calm, teacher = _scripted(clock, _steady(5)), _scripted(clock, _steady(7))
    runs = {"noisy": noisy, "calm": calm, "teacher": teacher}
    timing = measure_runs(runs, MeasurePlan(rounds=2, seconds=0.0, runs=2, extra_rounds=10), Recorder([]))
    rounds = [10, 12]
    while _estimate(rounds).noisy:
        rounds.append(10)
    assert 2 < len(rounds) < 12, "the example is one that gets clear on the way"
    assert len(noisy.done) == len(teacher.done) == 2 * len(rounds)
    assert len(calm.done) == 2 * 2
    assert not timing.noisy
    assert not timing.warnings


def _estimate(rounds):
    clock = Clock(lambda: None, lambda run: (0, 0))
    clock.rounds, clock.kept = list(rounds), len(rounds)
    return clock.estimate()


@pytest.mark.parametrize(("extra", "expected"), [(None, 4 + 4), (0, 4), (3, 7)])
def test_further_rounds_are_bounded_and_then_it_is_said(clock, extra, expected):
    wild = [(0, 0)] + [step for i in range(40) for step in ((1.5**i, 1.5**i), (0, 0))]
    run = _scripted(clock, wild)
    timing = measure_runs({"wild": run}, MeasurePlan(4, 0.0, 4, extra_rounds=extra), Recorder([]))
    assert len(run.done) == 2 * expected
    assert timing.noisy == ("wild",)
    text, = timing.warnings
    assert text.startswith("rounds drift by")
    assert "the clock rate or a neighbour changes; wild: known to within" in text


def test_interrupted_runs_are_dropped(clock):
    one = Clock(_scripted(clock, [(9, 9), (10, 10), (9, 5), (12, 12), (1, 1), (10, 10)]), thread_timer)
    one.round(0.0, 3)
    one.round(0.0, 1)
    estimate = one.estimate()
    assert estimate.least == pytest.approx(10e-3)  # the first run warms the caches, the third was interrupted
    assert (one.kept, one.dropped) == (3, 1)
    assert not estimate.noisy


def test_a_round_without_an_undisturbed_run_counts_with_its_cpu_time(clock):
    one = Clock(_scripted(clock, [(9, 9), (10, 10), (9, 9), (40, 11), (9, 9), (30, 10.1)]), thread_timer)
    for _ in range(3):
        one.round(0.0, 1)
    assert one.rounds == pytest.approx([10e-3, 11e-3, 10.1e-3])
    assert (one.kept, one.dropped) == (1, 2)
    assert one.estimate().clean


def test_where_all_runs_are_interrupted_cpu_time_counts_and_is_said(clock):
    run = _scripted(clock, [(30, 15), (29, 15), (28, 15)])
    timing = measure_runs({"a": run}, MeasurePlan(3, 0.0, 6), Recorder([]))
    assert timing.ms["a"] == pytest.approx(15)
    assert timing.dropped == 1
    assert timing.noisy == ("a",)
    assert timing.warnings == (
        "another process ran on the measured core in 100% of the runs, which were dropped",
        "every run of a was interrupted: the figures are CPU time",
        "fewer than 6 undisturbed runs of a",
    )


def test_a_neighbour_on_the_core_is_named_even_where_enough_runs_are_left(clock):
    steps = [(2, 2)] + [(2, 2), (4, 2)] * 400  # 401 is odd, so that warm-ups fall on both kinds
    timing = measure_runs({"a": _scripted(clock, steps)}, MeasurePlan(4, 0.0, 80), Recorder([]))
    assert timing.ms["a"] == pytest.approx(2)
    assert not timing.noisy
    assert timing.dropped == pytest.approx(0.5, abs=0.05)
    assert timing.warnings == (f"another process ran on the measured core in {timing.dropped:.0%} of the runs, "
                               "which were dropped",)


def test_with_more_threads_nothing_is_dropped_but_a_full_machine_is_named(clock, monkeypatch):
    class Crowd:
        def free(self):
            return 1.25

    monkeypatch.setattr(_measure, "Company", Crowd)
    run = _scripted(clock, [(5, 9), (5, 1)])
    timing = measure_runs({"a": run}, MeasurePlan(2, 0.0, 2), Recorder([], threads=2))
    assert timing.ms["a"] == pytest.approx(5)
    assert timing.dropped == 0
    text, = timing.warnings
    assert text.startswith("other processes left 1.2 cores to 2 threads")
    alone = _scripted(clock, _steady(5))
    assert not measure_runs({"a": alone}, MeasurePlan(2, 0.0, 2), Recorder([], threads=1)).warnings


def test_targets_may_time_in_their_own_way():
    @dataclass(frozen=True)
    class Own(Recorder):
        def timer(self):
            def stopwatch(run):
                run()
                return 0.25, 0.25

            return stopwatch

    timing = measure(Own([]), _named("a"), torch.zeros(1, 2), MeasurePlan(2, 0.0, 2))
    assert timing.ms == {"a": 250.0}
    assert timer_of(Recorder([])) is thread_timer
    assert timer_of(Recorder([], threads=2)) is _wall


def test_one_round_tells_nothing_about_itself(clock):
    timing = measure_runs({"a": _scripted(clock, _steady(1))}, MeasurePlan(1, 0.0, 1, extra_rounds=0), Recorder([]))
    assert timing.noisy == ("a",)
    assert timing.warnings == ("a single round of a does not say how far the figure can be trusted",)
    assert json.loads(json.dumps(timing.to_json(), allow_nan=False))["low"] == {"a": None}


def test_warnings_stay_short_and_silence_is_kept_where_all_is_well():
    calm = Estimate(1.0, 0.99, 1.01, 0.01, True)
    wild = Estimate(1.0, 0.9, 1.1, 0.08, True)
    assert list(lacks({"a": calm}, {"a": 5}, 24)) == [], "few runs, but they agree"
    text, = lacks({f"m{i}": wild for i in range(7)}, {f"m{i}": 24 for i in range(7)}, 24)
    assert "m0, m1, m2 and 4 more: known to within 10%" in text
    assert "drift by 8%" in text
    assert list(company(0.05, 1, math.inf)) == []
    assert list(company(0.05, 1, math.inf, 0.05)) == []
    assert "48% of the time" in next(iter(company(0.05, 1, math.inf, 0.48)))
    assert list(company(0.0, 2, 1.96)) == []


def test_timing_without_intervals_is_still_a_timing():
    timing = Timing({"a": 1.0}, {"a": 0.0})
    assert timing.to_json() == {"ms": {"a": 1.0}, "spread": {"a": 0.0}, "noisy": [], "dropped": 0.0, "low": {},
                                "high": {}, "warnings": []}


def test_inputs_are_the_first_example_or_drawn_in_the_shape():
    example = torch.arange(12.0).reshape(2, 6)
    (plain,) = repeated(example, Recorder([], batch=3))
    assert torch.equal(plain, example[:1].repeat(3, 1))
    (drawn,) = repeated(example, Recorder([], batch=3, shape="40"))
    assert drawn.shape == (3, 40)
    assert set(drawn.flatten().tolist()) <= set(range(12))
    assert len(set(drawn[0].tolist())) > 4
    assert torch.equal(drawn, repeated((example,), Recorder([], batch=3, shape="40"))[0])
    tokens = torch.tensor([[1, 7, 7]])
    (longer,) = repeated(tokens, Recorder([], batch=1, shape="9"))
    assert longer.dtype == torch.int64
    assert set(longer.flatten().tolist()) <= {1, 7}


@dataclass(frozen=True)
class Shaped(Recorder):
    """Runs models for real."""

    def prepare(self, model, inputs):
        return lambda: model(*inputs)


Shaped.__module__ = "niwaki.search.targets.torch"


@pytest.mark.parametrize(
    ("example", "shape", "message"),
    [
        ((torch.zeros(1, 4), torch.zeros(1, 4)), "8", "shape is for models with one input, this one has 2"),
        (torch.zeros(1, 3, 8, 8), "3x8", "shape has 2 dimensions, the example's is 3x8x8"),
        (torch.zeros(1, 4), "5", "'a' does not run on this shape: .*shapes cannot be multiplied"),
    ],
)
def test_a_shape_that_does_not_suit_is_refused(example, shape, message):
    with pytest.raises(InputError, match=message):
        measure(Shaped([], shape=shape), {"a": nn.Linear(4, 2)}, example, MeasurePlan(2, 0.0, 2))
