"""Spec strings, and timing: what is run, how often, in which order, and what is dropped."""

import copy
import time
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from niwaki.search.targets import MeasurePlan, machine, measure, parse
from niwaki.search.targets import _base as base
from niwaki.spaces import registry
from niwaki.spaces.errors import InputError

RUNTIMES = registry.names(base.PACKAGE)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_specs_read_back(runtime):
    target = parse(f" {runtime}:threads=2, batch=4")
    assert (target.threads, target.batch) == (2, 4)
    assert parse(base.spec_of(target)) == target
    assert parse(runtime) == parse(f"{runtime}:threads=1,batch=1")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("onnxrt:threads=1", r"unknown runtime 'onnxrt'; did you mean 'onnxruntime'"),
        ("torch:thread=1", r"unknown option 'thread'; did you mean 'threads'"),
        ("torch:threads=0", r"threads must be at least 1, got 0"),
        ("torch:batch=two", r"batch must be a whole number, got 'two'"),
        ("torch:threads", r"expected key=value, got 'threads'"),
        ("torch:layout=channel_last", r"layout cannot be 'channel_last'; did you mean 'channels_last'"),
        ("", r"unknown runtime ''"),
    ],
)
def test_wrong_specs_say_what_would_be_right(spec, message):
    with pytest.raises(InputError, match=message):
        parse(spec)


def test_a_missing_runtime_gives_the_pip_line(monkeypatch):
    def missing(package, name):
        raise ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime")

    monkeypatch.setattr(base.registry, "load", missing)
    with pytest.raises(InputError, match="pip install onnxruntime"):
        parse("onnxruntime")


@pytest.mark.parametrize("runtime", [*RUNTIMES, "torch:layout=channels_last"])
def test_real_models_are_measured_and_left_alone(runtime):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).train()
    state, threads = copy.deepcopy(model.state_dict()), torch.get_num_threads()
    timing = measure(parse(runtime), {"a": model, "b": model}, torch.randn(4, 3, 8, 8), MeasurePlan(2, 0.01, 4))
    assert set(timing.ms) == {"a", "b"}
    assert all(ms > 0 for ms in timing.ms.values())
    assert all(s >= 0 for s in timing.spread.values())
    assert model.training
    assert torch.get_num_threads() == threads
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert model[0].weight.requires_grad


@dataclass(frozen=True)
class Recorder:
    """A runtime that notes what happens instead of computing."""

    log: list
    threads: int = 1
    batch: int = 3

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


def test_rounds_are_interleaved_and_every_model_gets_its_runs():
    log = []
    steps = []
    plan = MeasurePlan(rounds=4, seconds=0.0, runs=6)
    measure(Recorder(log), _named("a", "b", "c"), torch.zeros(2, 5, 7), plan, lambda *step: steps.append(step))
    assert log[:3] == [("prepare", 1, (3, 5, 7))] * 3
    blocks = [log[3 + i: 6 + i] for i in range(0, len(log) - 3, 3)]  # 1 warm-up and 2 runs a model and round
    assert all(len(set(block)) == 1 for block in blocks)
    rounds = [[block[0] for block in blocks[i: i + 3]] for i in range(0, 12, 3)]
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1
    assert steps == [(i, 7) for i in range(1, 8)]


def test_threads_are_restored_after_a_failure():
    @dataclass(frozen=True)
    class Broken(Recorder):
        def prepare(self, model, inputs):
            raise RuntimeError("no")

    threads = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="no"):
        measure(Broken([], threads=threads + 1), _named("a"), torch.zeros(1, 2))
    assert torch.get_num_threads() == threads


@pytest.fixture
def clock(monkeypatch):
    """A wall clock and a CPU clock that a fake run moves by hand."""

    class Clock:
        wall = cpu = 0.0

    monkeypatch.setattr(time, "perf_counter", lambda: Clock.wall)
    monkeypatch.setattr(time, "thread_time", lambda: Clock.cpu)
    return Clock


def _scripted(clock, steps):
    """A run that takes the (wall, cpu) milliseconds of ``steps`` in turn."""
    script = iter(steps)

    def run():
        wall, cpu = next(script)
        clock.wall += wall / 1e3
        clock.cpu += cpu / 1e3

    return run


def test_interrupted_runs_are_dropped(clock):
    one = base._Clock(_scripted(clock, [(9, 9), (10, 10), (9, 5), (12, 12)]), wants_clean=True)
    one.round(0.0, 3)
    assert one.result()[0] == pytest.approx(10)  # the first run warms the caches, the third was interrupted
    assert not one.result()[2]


def test_where_all_runs_are_interrupted_cpu_time_counts_and_is_marked(clock):
    one = base._Clock(_scripted(clock, [(30, 15), (29, 16), (28, 15)]), wants_clean=True)
    one.round(0.0, 2)
    assert one.result()[0] == pytest.approx(15)
    assert one.result()[2]


def test_with_more_threads_nothing_is_dropped(clock):
    one = base._Clock(_scripted(clock, [(5, 9), (5, 9), (4, 1)]), wants_clean=False)
    one.round(0.0, 2)
    assert one.result()[0] == pytest.approx(4)


def test_rounds_that_disagree_are_noisy(clock):
    one = base._Clock(_scripted(clock, [(1, 1), (10, 10), (1, 1), (12, 12), (1, 1), (12, 12)]), wants_clean=True)
    for _ in range(3):
        one.round(0.0, 1)
    assert one.result()[0] == pytest.approx(10)
    assert one.result()[1] == pytest.approx(0.2)
    assert one.result()[2]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_machine_names_target_and_version(runtime):
    facts = machine(parse(runtime))
    assert facts["target"].startswith(f"{runtime}:threads=1,batch=1")
    assert facts["runtime"].split()[0] == runtime
    assert facts["cores"] >= 1
    assert facts["processor"]
