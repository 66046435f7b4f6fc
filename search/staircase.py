"""Where latency jumps with the width of a layer on a target, and the grid of widths that follows for a search."""

from __future__ import annotations

import glob
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from niwaki.search._stairs import grid_step, pad_step, waste
from niwaki.search.bench import Bench, Inputs, Measures
from niwaki.search.targets import MeasurePlan, Target
from niwaki.spaces import Candidate, Group, InputError, Space, SpaceOptions, axes, derive

KINDS = ("conv3x3", "conv1x1", "depthwise", "linear")
WIDTHS = (
    *(16, 32, 24, 48, 40, 17, 20, 33, 36, 64, 56, 18, 34, 28, 44, 49, 52),
    *(80, 72, 65, 13, 14, 15, 19, 29, 30, 31, 35, 45, 46, 47, 50, 51, 60, 61, 62, 63, 66, 67, 68),
)
"""What is measured; the ones that tell most come first, for targets on which there is no time for all."""
_LEAST = 5
_GLANCE = MeasurePlan(1, 0.01, 2, extra_rounds=0)
_CHOICES = 4
"""A group must have this many multiples of its step, or the grid leaves a search nothing to choose from."""

SMALL = SpaceOptions(ratios=(1.0,))
"""Of the small networks: any width is timed, none is on offer."""
Benches = Callable[[nn.Module, Space, Tensor], Measures]
"""Makes a bench for a module, its space and an example, on the target in question."""


@dataclass(frozen=True)
class Staircase:
    """What a target's latency does between widths, by kind of layer (:data:`KINDS`).

    Attributes:
        steps: the grid that a search should keep to: widths between its multiples cost more than the multiples on
            both sides would on average; 1 where that is not so.
        pads: the smallest step to whose next multiple filling up with zeros pays; 1 where it never does.
        waste: the largest time of a width over that of the next multiple of the step: 1.5 means that some width takes
            half as long again as a wider one.
        figures: width -> milliseconds of the small network that was measured.
        machine: where the figures come from.
    """

    steps: Mapping[str, int]
    pads: Mapping[str, int]
    waste: Mapping[str, float]
    figures: Mapping[str, Mapping[int, float]]
    machine: Mapping[str, Any]

    @classmethod
    def of(cls, figures: Mapping[str, Mapping[int, float]], noise: float, machine: Mapping[str, Any]) -> Staircase:
        """What follows from milliseconds by kind and width that are uncertain by the fraction ``noise``.

        Example:
            >>> found = Staircase.of({"linear": {c: -(-c // 16) * 16.0 for c in WIDTHS}}, 0.01, {})
            >>> found.steps, found.pads, found.waste
            ({'linear': 16}, {'linear': 1}, {'linear': 1.0})
        """
        steps = {kind: grid_step(times, noise) for kind, times in figures.items()}
        return cls(
            steps, {kind: pad_step(times) for kind, times in figures.items()},
            {kind: waste(times, steps[kind]) for kind, times in figures.items()}, figures, machine,
        )

    def step_for(self, space: Space) -> int:
        """The largest step that holds for all kinds of layers whose widths the space leaves open; 1 where none does."""
        return min(self.steps_for(space).values(), default=1)

    def steps_for(self, space: Space) -> dict[str, int]:
        """Group -> step of the kind of layer that it decides about."""
        return {g.name: self.steps.get(kind_of(space, g), 1) for g in space.groups}

    def pads_for(self, space: Space) -> dict[str, int]:
        """Group -> step for :func:`niwaki.spaces.pad.padded_widths`."""
        return {g.name: self.pads.get(kind_of(space, g), 1) for g in space.groups}

    def to_json(self) -> dict[str, Any]:
        figures = {kind: {str(c): round(ms, 6) for c, ms in times.items()} for kind, times in self.figures.items()}
        return {"steps": dict(self.steps), "pads": dict(self.pads), "waste": dict(self.waste), "figures": figures,
                "machine": dict(self.machine)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Staircase:
        """Inverse of :meth:`to_json`; ValueError names the key that is missing."""
        for key in ("steps", "pads", "waste", "figures", "machine"):
            if not isinstance(data.get(key), Mapping):
                raise ValueError(f"staircase: {key!r} is missing or no mapping")
        figures = {kind: {int(c): float(ms) for c, ms in times.items()} for kind, times in data["figures"].items()}
        return cls(data["steps"], data["pads"], data["waste"], figures, data["machine"])


def on(target: Target) -> Benches:
    """Benches on this machine."""
    return lambda teacher, space, example: Bench(teacher, space, target, example)


def shapeless(target: Target) -> Target:
    """The target without the input shape of one model: the small networks have their own."""
    return replace(target, shape="") if getattr(target, "shape", "") else target  # type: ignore[type-var]


def find_staircase(
    benches: Benches, batch: int = 1, kinds: Iterable[str] = KINDS, seconds: float = 20.0
) -> Staircase:
    """Measure small networks whose one hidden layer has every width of :data:`WIDTHS`, as far as time allows.

    Args:
        benches: see :func:`on`; of a target without a shape, see :func:`shapeless`.
        batch: of the target: images are smaller where it is large.
        kinds: of :data:`KINDS`.
        seconds: for all of :data:`KINDS` together, on a machine that does nothing else; fewer take less.

    Raises:
        InputError: the target takes too long to make a model ready, so that no staircase can be seen in that time.
    """
    names = tuple(kinds)
    figures: dict[str, dict[int, float]] = {}
    spreads: list[float] = []
    machine: Mapping[str, Any] = {}
    for kind in names:
        bench, group = _bench(kind, benches, batch)
        machine = machine or bench.machine()  # before the first measurement: the load that it tells is not our own
        figures[kind], spread = _times(bench, group, seconds / len(KINDS))
        bench.close()
        spreads.extend(spread)
    return Staircase.of(figures, min(median(spreads), 0.1) if spreads else 0.0, machine)


def per_group_steps(groups: Sequence[Group], step: int | Mapping[str, int]) -> dict[str, int]:
    """Pattern of each group -> its step, as :class:`niwaki.spaces.SpaceOptions` takes it: halved until the group has
    at least four multiples of it, so that small networks keep choices.

    Args:
        step: for all groups, or by group.

    Example:
        >>> groups = derive(nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2)), torch.zeros(2, 4)).groups
        >>> per_group_steps(groups, 16)
        {'0': 8}
    """
    found = {}
    for g in sorted(groups, key=lambda g: g.name):  # a name also means what lies below it: the longer one comes last
        s = step if isinstance(step, int) else step.get(g.name, 1)
        while s > 1 and g.units // s < _CHOICES:
            s //= 2
        found[glob.escape(g.name)] = max(1, s)
    return found


def stepped(options: SpaceOptions, space: Space, staircase: Staircase) -> SpaceOptions:
    """``options`` with every group's step taken from the staircase; ``space`` is of any step."""
    return replace(options, step=per_group_steps(space.groups, staircase.steps_for(space)))


def auto_step(teacher: nn.Module, example: Inputs, target: Target, options: SpaceOptions) -> SpaceOptions:
    """Options whose ``step`` is what the target's staircase says, for the kinds of layers that the model has.

    Example:
        >>> from niwaki.search.targets import parse
        >>> net = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
        >>> options = auto_step(net, torch.zeros(2, 4), parse("torch"), SpaceOptions())
        >>> set(options.step)
        {'0'}
    """
    space = derive(teacher, example, replace(options, step=1))
    return stepped(options, space, find_staircase(on(shapeless(target)), target.batch, kinds_of(space)))


def kinds_of(space: Space) -> tuple[str, ...]:
    """The kinds of layers whose widths the space leaves open, in the order of :data:`KINDS`."""
    found = {kind_of(space, g) for g in space.groups}
    return tuple(k for k in KINDS if k in found)


def kind_of(space: Space, group: Group) -> str:
    """The kind of layer that a group's width matters to: depthwise where there is one (it stands for the layers on
    both sides too), else the one with most weights; '' where the units lie in no layer's weight."""
    weights: dict[str, int] = {}
    for s in group.slices:
        sizes = [axes.dim_size(d) for d in space.plan.analysis.tensors[s.tensor]]
        kernel = prod(sizes[2:])
        if s.side == "carries":
            if len(sizes) > 2 and sizes[1] == 1 and kernel > 1:
                return "depthwise"
        elif len(sizes) >= 2:
            kind = "linear" if len(sizes) == 2 else "conv3x3" if kernel > 1 else "conv1x1"
            weights[kind] = weights.get(kind, 0) + prod(sizes)
    return max(weights, key=lambda k: weights[k], default="")


def _bench(kind: str, benches: Benches, batch: int) -> tuple[Measures, str]:
    """Of the small network for a kind, and the name of its one group."""
    if kind not in KINDS:
        raise ValueError(f"staircase: unknown kind {kind!r}, expected one of {KINDS}")
    side = 16 if batch <= 4 else 8
    example = torch.zeros(2, 128) if kind == "linear" else torch.zeros(2, 32, side, side)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        net = _net(kind, max(WIDTHS)).eval()
    example.normal_(generator=torch.Generator().manual_seed(0))
    space = derive(net, example, SMALL)
    return benches(net, space, example), space.groups[0].name


def _net(kind: str, c: int) -> nn.Sequential:
    """A width is the output of one layer and the input of the next: both are measured together."""
    if kind == "linear":
        return nn.Sequential(nn.Linear(128, c), nn.ReLU(), nn.Linear(c, 128))
    k = 3 if kind == "conv3x3" else 1
    first, last = nn.Conv2d(32, c, k, padding=k // 2), nn.Conv2d(c, 32, k, padding=k // 2)
    if kind == "depthwise":
        return nn.Sequential(first, nn.ReLU(), nn.Conv2d(c, c, 3, padding=1, groups=c), nn.ReLU(), last)
    return nn.Sequential(first, nn.ReLU(), last)


def _times(bench: Measures, group: str, seconds: float) -> tuple[dict[int, float], list[float]]:
    """Width -> milliseconds for as many widths as ``seconds`` allow, and how far rounds differed."""
    candidates = {c: Candidate({group: c}) for c in WIDTHS}
    start = time.perf_counter()
    bench.time([candidates[WIDTHS[0]]], _GLANCE)  # the first model pays for what is made once
    ready = time.perf_counter()
    bench.time([candidates[c] for c in WIDTHS[1:4]], _GLANCE)
    each = (time.perf_counter() - ready) / 3
    count = int(seconds / max(each, 1e-3))
    if count < _LEAST:
        raise InputError(
            f"space.step: 'auto' measures many small models, and {bench.machine()['target']} takes {each:.0f} seconds "
            "for one; give a step, such as 16 or 8"
        )
    measured = {c: candidates[c] for c in WIDTHS[:count]}
    left = max(0.2 * seconds, seconds - (time.perf_counter() - start))
    timing = bench.time(list(measured.values()), MeasurePlan(6, 0.6 * left / len(measured), 12, extra_rounds=2))
    spread = [timing.spread[candidate.key] for candidate in measured.values()]
    return {c: timing.ms[candidate.key] for c, candidate in sorted(measured.items())}, spread
