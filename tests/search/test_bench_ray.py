"""Measuring on a node of a Ray cluster: what comes back, what is refused. Two small clusters, each in this machine."""

import logging
from dataclasses import dataclass

import pytest
import ray
import torch
from torch import nn

from niwaki.search import bench_ray
from niwaki.search.bench import TEACHER
from niwaki.search.bench_ray import RESOURCE, RayBench, check_node
from niwaki.search.targets import MeasurePlan, parse
from niwaki.spaces import InputError, SpaceOptions, derive

PLAN = MeasurePlan(rounds=2, seconds=0.002, runs=2, extra_rounds=0)


@dataclass(frozen=True)
class Counted:
    """A runtime whose time is known: a second for each parameter. It refuses models of one size."""

    threads: int = 1
    batch: int = 2
    refused: int = 1

    def prepare(self, model, inputs):
        params = sum(p.numel() for p in model.parameters())
        if params == self.refused:
            raise InputError(f"cannot run {params} parameters")
        assert inputs[0].shape == (2, 6)
        return lambda: params

    def timer(self):
        return lambda run: (float(run()), float(run()))

    def version(self):
        return "counted 1"


Counted.__module__ = __name__  # found again by name where machine() spells the spec


@pytest.fixture(scope="module")
def cluster():
    """One node with the resource and two CPUs."""
    ray.init(address="local", num_cpus=2, resources={RESOURCE: 1}, include_dashboard=False, log_to_driver=False,
             logging_level=logging.CRITICAL)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)).eval()


@pytest.fixture(scope="module")
def space(net):
    return derive(net, torch.zeros(2, 6), SpaceOptions(ratios=(0.5, 1.0)))


def made(net, space, **options):
    return RayBench(net, space, Counted(**options), torch.zeros(1, 6), SpaceOptions(ratios=(0.5, 1.0)))


def free():
    return ray.available_resources().get(RESOURCE, 0)


def test_candidates_are_measured_over_there(cluster, net, space):
    largest, smallest = space.largest(), space.smallest()
    params = {c.key: space.cost(c).params for c in (largest, smallest)}
    bench, steps = made(net, space, refused=params[smallest.key]), []
    try:
        assert free() == 1, "nothing is taken before it is needed"
        timing = bench.time([largest], PLAN, lambda *step: steps.append(step))
        assert timing.ms == {TEACHER: params[largest.key] * 1e3, largest.key: params[largest.key] * 1e3}
        assert steps == [(1, 3), (2, 3), (3, 3)]
        with pytest.raises(InputError, match=f"^cannot run {params[smallest.key]} parameters$"):
            bench.time([smallest], PLAN)
        assert bench.time([largest], PLAN).ms == timing.ms, "it goes on after a refusal"
        assert bench.profile([largest], 3) == {}
        assert bench.reason is None
        assert bench.machine()["runtime"] == "counted 1"
        assert free() == 0, "one at a time"
    finally:
        bench.close()
    bench.close()


def test_a_node_that_sees_another_space_is_refused(cluster, net, space):
    bench = RayBench(net, space, Counted(), torch.zeros(1, 6), SpaceOptions(ratios=(0.25, 1.0)))
    with pytest.raises(InputError, match=rf"derives another space \(\w+\) than this machine \({space.digest}\)"):
        bench.machine()


def test_more_threads_than_any_target_node_has_are_refused(cluster, net, space):
    check_node(threads=2)
    with pytest.raises(InputError, match="threads=3, but no node that carries 'niwaki_target' has more than 2 CPUs"):
        made(net, space, threads=3)


def test_a_cluster_without_the_resource_is_refused(cluster, monkeypatch, net, space):
    monkeypatch.setattr(bench_ray, "RESOURCE", "something_else")
    with pytest.raises(InputError, match="no node of the cluster carries 'something_else'"):
        made(net, space)


@pytest.mark.parametrize("nodes", [
    [], [{"Alive": False, "Resources": {RESOURCE: 1.0, "CPU": 4.0}}],
    [{"Alive": True, "Resources": {RESOURCE: 0.5, "CPU": 4.0}}, {"Alive": True, "Resources": {"CPU": 8.0}}],
])
def test_without_the_resource_it_is_said_how_to_offer_it(monkeypatch, net, space, nodes):
    monkeypatch.setattr(bench_ray.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(bench_ray.ray, "nodes", lambda: nodes)
    with pytest.raises(InputError, match="no node of the cluster carries 'niwaki_target'; start one with: ray") as e:
        RayBench(net, space, parse("torch"), torch.zeros(1, 6))
    assert """--resources='{"niwaki_target": 1}'""" in str(e.value)


def test_without_a_cluster_it_is_said_how_to_start_one(monkeypatch):
    def absent(**options):
        raise ConnectionError("none")

    monkeypatch.setattr(bench_ray.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(bench_ray.ray, "init", absent)
    with pytest.raises(InputError, match="no Ray cluster found to measure on; start one with: ray start --head"):
        check_node()
