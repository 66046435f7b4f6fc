"""Every runtime of the folder, run for real where this machine can."""

import copy
import dataclasses
import os

import pytest
import torch
from torch import nn

from niwaki.search.targets import MeasurePlan, _spec, cuda, machine, measure, parse, torch_compile
from niwaki.search.targets import _machine as facts_of
from niwaki.search.threads import torch_threads
from niwaki.spaces.errors import InputError

RUNTIMES = sorted(_spec.runtimes())
HERE = [
    pytest.param(name, marks=pytest.mark.skipif(name == "cuda" and not torch.cuda.is_available(), reason="no GPU"))
    for name in RUNTIMES
]


def _net():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())


@pytest.mark.parametrize("runtime", [*HERE, "torch:layout=channels_last", "torch:dtype=bfloat16,batch=2,shape=3x12x8"])
def test_real_models_are_measured_and_left_alone(runtime):
    model = _net().train()
    state, threads = copy.deepcopy(model.state_dict()), torch.get_num_threads()
    timing = measure(parse(runtime), {"a": model, "b": model}, torch.randn(4, 3, 8, 8), MeasurePlan(2, 0.01, 4))
    assert set(timing.ms) == {"a", "b"}
    assert all(ms > 0 for ms in timing.ms.values())
    assert all(s >= 0 for s in timing.spread.values())
    assert all(timing.low[n] <= ms <= timing.high[n] for n, ms in timing.ms.items())
    assert model.training
    assert torch.get_num_threads() == threads
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert model[0].weight.requires_grad


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_eager_runs_compute_what_the_model_does(dtype):
    model, x = _net().eval(), torch.randn(2, 3, 8, 8)
    found = parse(f"torch:dtype={dtype}").prepare(model, (x,))()
    assert found.dtype == getattr(torch, dtype)
    with torch.no_grad():
        torch.testing.assert_close(found.float(), model(x), rtol=0.05, atol=0.05)


def test_tokens_stay_whole_numbers_under_bfloat16():
    model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 2))
    assert parse("torch:dtype=bfloat16").prepare(model, (torch.tensor([[1, 7]]),))().dtype == torch.bfloat16


class Wide(nn.Module):
    """One class, many widths: what the candidates of a space look like to the compiler."""

    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Linear(4, width), nn.Linear(width, 2)

    def forward(self, x):
        return self.b(self.a(x).relu())


def test_more_candidates_than_the_compilers_own_limit_are_compiled_and_stay_so(monkeypatch):
    """By a backend that counts and does not compile: seconds each would be too long."""
    compiled, calls = [], []

    def backend(graph, inputs):
        compiled.append(graph)
        return lambda *args: calls.append(graph) or graph(*args)

    original = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: original(model, dynamic=dynamic, backend=backend))
    monkeypatch.setattr(torch_compile, "_check_compiler", lambda: None)
    target, x = parse("torch-compile"), torch.randn(3, 4)
    models = [Wide(width) for width in range(3, 15)]
    assert len(models) > torch._dynamo.config.recompile_limit
    runs = [target.prepare(model, (x,)) for model in models]
    assert len(compiled) == len(models)
    with torch_threads(target.threads):
        for model, run, graph in zip(models, runs, compiled, strict=True):
            calls.clear()
            torch.testing.assert_close(run(), model(x).detach())
            assert calls == [graph]
    assert len(compiled) == len(models)
    torch._dynamo.reset()


def test_without_a_compiler_it_is_said_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(InputError, match=r"torch-compile.*needs the C\+\+ compiler.*apt install g\+\+"):
        parse("torch-compile").prepare(nn.Linear(2, 2), (torch.zeros(1, 2),))
    monkeypatch.setenv("CXX", "icpx")
    with pytest.raises(InputError, match="'icpx'"):
        parse("torch-compile").prepare(nn.Linear(2, 2), (torch.zeros(1, 2),))


def test_a_gpu_target_without_a_gpu_is_refused_when_it_is_used(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    target = parse("cuda:batch=2,dtype=float16,graphs=on,shape=3x8x8")
    assert (target.threads, target.batch, target.dtype, target.graphs) == (1, 2, "float16", "on")
    with pytest.raises(InputError, match="torch sees no GPU"):
        measure(target, {"a": _net()}, torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match="torch sees no GPU"):
        machine(target)
    with pytest.raises(InputError, match="torch sees no GPU"):
        target.timer()


def test_gpu_runs_are_timed_between_two_events(monkeypatch):
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("record")

        def synchronize(self):
            log.append("synchronize")

        def elapsed_time(self, end):
            assert end is not self
            return 2.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert cuda._events(lambda: log.append("run")) == (0.0025, 0.0025)
    assert log == ["record", "run", "record", "synchronize"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("graphs", ["off", "on"])
def test_gpu_runs_compute_what_the_model_does(graphs):
    model, x = _net().eval(), torch.randn(2, 3, 8, 8)
    timing = measure(parse(f"cuda:graphs={graphs},batch=2"), {"a": model}, x, MeasurePlan(2, 0.01, 4))
    assert timing.ms["a"] > 0
    assert next(model.parameters()).device.type == "cpu"


@pytest.mark.parametrize("runtime", HERE)
def test_machine_names_target_version_and_hardware(runtime):
    target = parse(runtime)
    facts = machine(target)
    assert facts["target"].startswith(f"{runtime}:")
    assert parse(facts["target"]) == target
    assert facts["runtime"].split()[0] == runtime.partition("-")[0].replace("cuda", "torch")
    assert facts["cores"] == os.cpu_count()
    assert facts["processor"]
    assert facts["instructions"] in {None, "avx512", "avx2", "avx", "sve", "asimd"}
    assert facts["load"] is None or facts["load"] >= 0


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"flags": "fpu sse2 avx avx2 avx512f avx512bw"}, "avx512"), ({"flags": "sse2 avx avx2"}, "avx2"),
        ({"flags": "sse2 avx"}, "avx"), ({"Features": "fp asimd crc32"}, "asimd"), ({"flags": "sse2"}, None),
        ({}, None),
    ],
)
def test_the_widest_instructions_are_named(flags, expected):
    assert facts_of._instructions(flags) == expected


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_options_have_defaults_and_a_meaning(runtime):
    cls = type(parse(runtime))
    for field in dataclasses.fields(cls):
        assert field.default is not dataclasses.MISSING
        assert f"{field.name}:" in (cls.__doc__ or ""), f"{field.name} is not described"
