"""The grid of a target from staircases in closed form; nothing here depends on a measured time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from niwaki.search._stairs import grid_step, pad_step, waste
from niwaki.search.staircase import (
    KINDS,
    WIDTHS,
    Staircase,
    auto_step,
    find_staircase,
    kind_of,
    kinds_of,
    on,
    per_group_steps,
    shapeless,
    stepped,
)
from niwaki.search.targets import MeasurePlan, Timing, parse
from niwaki.spaces import Candidate, InputError, Space, SpaceOptions, derive

Law = Callable[[int], float]


def plateau(step: int, overhead: float = 0.0) -> Law:
    """As a runtime that fills up to multiples of ``step``."""
    return lambda c: -(-c // step) * step + overhead


def blocked(c: int) -> float:
    """A blocked layout: plateaus of 16, and a plain path that takes half as long again off the multiples of 4."""
    return plateau(16)(c) * (1.0 if c % 4 == 0 else 1.5)


LAWS: dict[str, tuple[Law, int, int]] = {
    "plateaus of 16": (plateau(16), 16, 1),
    "plateaus of 16, half of the time is overhead": (plateau(16, 40.0), 16, 1),
    "plateaus of 8": (plateau(8), 8, 1),
    "plateaus of 4": (plateau(4), 4, 1),
    "linear": (float, 1, 1),
    "linear with overhead": (lambda c: c + 30.0, 1, 1),
    "quadratic": (lambda c: c * c + 100.0, 1, 1),
    "no width matters": (lambda c: 5.0, 1, 1),
    "blocked": (blocked, 16, 4),
    "odd widths are slow": (lambda c: c * (1.0 + 0.3 * (c % 2)), 2, 2),
}


@pytest.mark.parametrize("name", list(LAWS))
def test_steps_of_known_staircases(name: str) -> None:
    law, step, padding = LAWS[name]
    times = {c: law(c) for c in WIDTHS}
    assert (grid_step(times), pad_step(times)) == (step, padding)
    assert grid_step({c: 7e-3 * t for c, t in times.items()}) == step, "the unit does not matter"


@pytest.mark.parametrize(("law", "step"), [(plateau(16), 16), (plateau(8), 8), (float, 1), (blocked, 16)])
def test_noise_does_not_make_or_hide_steps(law: Law, step: int) -> None:
    """Least times that are 1.5 % too long on average, 100 times over."""
    rng = np.random.default_rng(0)
    right = 0
    for _ in range(100):
        times = {c: law(c) * (1 + rng.exponential(0.015)) for c in WIDTHS}
        right += grid_step(times, 0.02) == step
    assert right >= 98


def test_a_grid_that_forbids_cheap_widths_is_none() -> None:
    """Plateaus of 16, but the widths of 13 to 15 past a multiple take the time of the plateau below."""
    times = {c: plateau(16)(c) if 0 < c % 16 < 13 or c % 16 == 0 else c // 16 * 16.0 for c in WIDTHS}
    assert grid_step(times) != 16


@pytest.mark.parametrize("step", [1, 2, 4, 8, 16])
def test_waste_is_the_worst_ratio(step: int) -> None:
    times = {c: blocked(c) for c in WIDTHS}
    slow = max(times[c] / times[min(w for w in WIDTHS if w >= c and w % step == 0)] for c in WIDTHS if c <= 64)
    assert waste(times, step) == pytest.approx(slow)


def test_widths_have_what_the_steps_need() -> None:
    assert len(set(WIDTHS)) == len(WIDTHS)
    assert {16, 17, 32, 33, 48, 64, 65} <= set(WIDTHS)
    for step in (2, 4, 8, 16):
        assert all(-(-c // step) * step in WIDTHS for c in WIDTHS)


class FakeBench:
    """Times in closed form; ``seen`` gathers what was asked for."""

    reason = None
    seen: list[int]

    def __init__(self, space: Space, law: Law) -> None:
        self.space, self.law, self.seen = space, law, []

    def time(self, candidates: Sequence[Candidate], plan: MeasurePlan, progress: Any = None) -> Timing:
        (group,) = self.space.widths
        self.seen += [c.widths[group] for c in candidates]
        assert len({c.key for c in candidates}) == len(candidates)
        ms = {c.key: self.law(c.widths[group]) for c in candidates}
        return Timing({"teacher": 1.0, **ms}, dict.fromkeys(["teacher", *ms], 0.01))

    def profile(self, candidates: Sequence[Candidate], runs: int = 20) -> dict[str, dict[str, float]]:
        return {}

    def machine(self) -> dict[str, Any]:
        return {"target": "fake"}

    def close(self) -> None:
        self.closed = True


def test_every_kind_is_found_in_its_own_network() -> None:
    laws: dict[str, Law] = {"conv3x3": blocked, "conv1x1": plateau(8), "depthwise": plateau(16), "linear": float}

    def benches(net: nn.Module, space: Space, example: Tensor) -> FakeBench:
        assert net(example).shape[0] == 2
        return FakeBench(space, laws[kind_of(space, space.groups[0])])

    found = find_staircase(benches)
    assert found.steps == {"conv3x3": 16, "conv1x1": 8, "depthwise": 16, "linear": 1}
    assert found.pads == {"conv3x3": 4, "conv1x1": 1, "depthwise": 1, "linear": 1}
    assert found.waste == {"conv3x3": 1.5, "conv1x1": 1.0, "depthwise": 1.0, "linear": 1.0}
    assert found.figures["linear"] == {c: float(c) for c in sorted(WIDTHS)}
    assert found.machine == {"target": "fake"}
    assert Staircase.from_json(json.loads(json.dumps(found.to_json()))) == found
    with pytest.raises(ValueError, match="'waste' is missing"):
        Staircase.from_json({k: v for k, v in found.to_json().items() if k != "waste"})


def test_the_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    find_staircase(lambda net, space, example: FakeBench(space, float), kinds=["linear"])
    assert torch.equal(torch.get_rng_state(), state)


class Slow(FakeBench):
    """A target that takes a while for each model, by a clock that only this test moves."""

    now = 0.0

    def time(self, candidates: Sequence[Candidate], plan: MeasurePlan, progress: Any = None) -> Timing:
        Slow.now += 1.0 * len(candidates)
        return super().time(candidates, plan, progress)


@pytest.mark.parametrize(("seconds", "expected"), [(12.0, 12), (100.0, len(WIDTHS)), (4.0, None)])
def test_slow_targets_get_fewer_widths(
    monkeypatch: pytest.MonkeyPatch, seconds: float, expected: int | None
) -> None:
    monkeypatch.setattr("niwaki.search.staircase.time.perf_counter", lambda: Slow.now)
    made: list[Slow] = []

    def benches(net: nn.Module, space: Space, example: Tensor) -> Slow:
        made.append(Slow(space, plateau(16)))
        return made[-1]

    if expected is None:
        with pytest.raises(InputError, match="fake takes 1 seconds for one; give a step"):
            find_staircase(benches, kinds=["linear"], seconds=4 * seconds)
        return
    found = find_staircase(benches, kinds=["linear"], seconds=4 * seconds)
    assert len(found.figures["linear"]) == expected
    assert found.steps == {"linear": 16}
    assert made[0].seen[4:] == list(WIDTHS[:expected])


class Net(nn.Module):
    """A stream of 3x3 convolutions with a linear at its end, a block with a depthwise one, a bottleneck of 1x1."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.a, self.b = nn.Conv2d(32, 64, 3, padding=1), nn.Conv2d(64, 32, 3, padding=1)
        self.up, self.down = nn.Conv2d(32, 48, 1), nn.Conv2d(48, 32, 1)
        self.deep = nn.Conv2d(48, 48, 3, padding=1, groups=48)
        self.thin, self.wide = nn.Conv2d(32, 16, 1), nn.Conv2d(16, 32, 1)
        self.hidden, self.head = nn.Linear(32, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.b(torch.relu(self.a(x))))
        x = x + self.down(torch.relu(self.deep(torch.relu(self.up(x)))))
        x = x + self.wide(torch.relu(self.thin(x)))
        return self.head(torch.relu(self.hidden(x.mean((2, 3)))))


STEPS: Mapping[str, int] = {"conv3x3": 16, "conv1x1": 8, "depthwise": 4, "linear": 1}


@pytest.fixture(scope="module")
def space() -> Space:
    return derive(Net().eval(), torch.zeros(2, 3, 8, 8))


def test_groups_follow_the_kind_that_they_decide_about(space: Space) -> None:
    kinds = {g.name: kind_of(space, g) for g in space.groups}
    assert kinds == {"stem": "conv3x3", "a": "conv3x3", "up": "depthwise", "thin": "conv1x1", "hidden": "linear"}
    assert kinds_of(space) == KINDS
    stairs = Staircase(STEPS, STEPS, {}, {}, {})
    assert stairs.steps_for(space) == {"stem": 16, "a": 16, "up": 4, "thin": 8, "hidden": 1}
    assert stairs.pads_for(space) == stairs.steps_for(space)
    assert stairs.step_for(space) == 1


def test_small_groups_keep_choices(space: Space) -> None:
    assert per_group_steps(space.groups, 16) == {"a": 16, "hidden": 4, "stem": 8, "thin": 4, "up": 8}
    assert per_group_steps(space.groups, {"a": 4, "thin": 16}) == {"a": 4, "hidden": 1, "stem": 1, "thin": 4, "up": 1}


def test_options_take_the_steps(space: Space) -> None:
    options = stepped(SpaceOptions(ratios=[0.3, 0.5, 1.0], least=8), space, Staircase(STEPS, STEPS, {}, {}, {}))
    again = derive(Net().eval(), torch.zeros(2, 3, 8, 8), options)
    assert again.widths == {"stem": (8, 16, 32), "a": (16, 32, 64), "up": (16, 24, 48), "thin": (4, 8, 16),
                            "hidden": (7, 12, 24)}


class Nested(nn.Linear):
    """A layer with another one below its own name."""

    def __init__(self) -> None:
        super().__init__(4, 64)
        self.inner = nn.Linear(64, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.relu(super().forward(x)))


@pytest.mark.parametrize("inner", [1, 4])
def test_a_name_that_lies_below_another_keeps_its_own_step(inner: int) -> None:
    net, x = nn.Sequential(Nested(), nn.ReLU(), nn.Linear(32, 2)), torch.zeros(2, 4)
    steps = per_group_steps(derive(net, x).groups, {"0": 16, "0.inner": inner})
    expected = {1: 9, 4: 8}[inner]
    assert derive(net, x, step=steps, ratios=[0.3]).widths == {"0": (16, 64), "0.inner": (expected, 32)}


def test_on_the_torch_target() -> None:
    """Only the structure: what is measured here and now is nobody's promise."""
    target = shapeless(parse("torch:shape=3x9x9"))
    assert target == parse("torch")
    found = find_staircase(on(target), kinds=["conv1x1", "linear"], seconds=4.0)
    assert set(found.steps.values()) <= {1, 2, 4, 8, 16}
    assert all(ms > 0 for times in found.figures.values() for ms in times.values())
    assert found.machine["target"].startswith("torch")
    assert all(w >= 1 for w in found.waste.values())


def test_auto_step_measures_what_the_model_has(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Fake(FakeBench):
        def __init__(self, teacher: nn.Module, space: Space, target: object, example: Tensor) -> None:
            asked.append(kind_of(space, space.groups[0]))
            super().__init__(space, plateau(8))

    monkeypatch.setattr("niwaki.search.staircase.Bench", Fake)
    net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                        nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 2))
    options = auto_step(net, torch.zeros(2, 3, 8, 8), parse("torch"), SpaceOptions(ratios=[0.5], step=3))
    assert asked == ["conv3x3", "linear"]
    assert options.step == {"0": 8, "4": 4}
    assert options.ratios == (0.5,)
