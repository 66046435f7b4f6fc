"""Calibrate the latency model on a target, and measure the members of a front again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from niwaki.search.targets import MeasurePlan, Target, Timing, machine, measure
from niwaki.spaces import Space
from niwaki.spaces.latency import LatencyModel
from niwaki.spaces.types import Candidate

TEACHER = "teacher"
Inputs = Tensor | tuple[Tensor, ...]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CalibrationPlan:
    """What to measure: ``samples`` candidates over the whole space, the largest and the smallest among them.

    Attributes:
        samples: at least 4; 24 or more are better. Small spaces may hold fewer different candidates.
        measure: how long.
        seed: of the candidates drawn.
        teacher: measured in the same rounds as the anchor. None takes the largest candidate, which computes the same
            but may run other code than the user's own module and so be a few percent faster or slower.
    """

    samples: int = 32
    measure: MeasurePlan = field(default_factory=MeasurePlan)
    seed: int = 0
    teacher: nn.Module | None = None


def calibrate(
    space: Space,
    carve: Callable[[Candidate], nn.Module],
    target: Target,
    example: Inputs,
    plan: CalibrationPlan | None = None,
    progress: Progress | None = None,
) -> LatencyModel:
    """Measure candidates interleaved with the teacher and fit the latency model to them.

    Args:
        carve: builds the model of a candidate; which units it keeps does not matter.
        example: inputs, batch first; one example is repeated to the target's batch.
        progress: called with (steps done, steps), see :func:`niwaki.search.targets.measure`.
    """
    plan = plan or CalibrationPlan()
    candidates = calibration_candidates(space, plan.samples, plan.seed)
    models = {candidate.key: carve(candidate) for candidate in candidates}
    anchor = space.largest().key
    if plan.teacher is not None:
        models[anchor := TEACHER] = plan.teacher
    timing = measure(target, models, example, plan.measure, progress)
    matrix = np.array([space.encode(candidate) for candidate in candidates], dtype=np.int64)
    source = machine(target) | {
        "models": len(models), "noisy_models": len(timing.noisy), "interrupted_runs": round(timing.dropped, 4),
        "spread_of_rounds": round(float(np.median(list(timing.spread.values()))), 4),
    }
    return LatencyModel.fit(
        space, matrix, [timing.ms[c.key] for c in candidates], timing.ms[anchor], source,
    )


def calibration_candidates(space: Space, samples: int, seed: int) -> list[Candidate]:
    """Different candidates over the whole range of the space: the largest, the smallest, and ``samples`` - 2 between.

    Independent choices for every layer all cost about the same; so a candidate first draws how large it is, then every
    choice around that.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.tensor([len(v.choices) for v in space.variables])
    found = {c.key: c for c in (space.largest(), space.smallest())}
    for _ in range(20 * samples):
        if len(found) >= samples:
            break
        place = torch.rand(1, generator=generator) + 0.3 * torch.randn(len(sizes), generator=generator)
        indices = (place.clamp(0, 1) * (sizes - 1)).round().long()
        candidate = space.canonical(space.decode(indices.tolist()))
        found.setdefault(candidate.key, candidate)
    return list(found.values())


def remeasure(
    members: Mapping[str, nn.Module],
    teacher: nn.Module,
    target: Target,
    example: Inputs,
    plan: MeasurePlan | None = None,
) -> Timing:
    """Time ``members`` interleaved with the teacher, who appears under ``TEACHER`` in the result."""
    if TEACHER in members:
        raise ValueError(f"a member is called {TEACHER!r}; that name is the teacher's")
    return measure(target, {TEACHER: teacher, **members}, example, plan)


def speed_ups(timing: Timing) -> dict[str, float]:
    """Teacher's latency over each member's."""
    return {name: timing.ms[TEACHER] / ms for name, ms in timing.ms.items() if name != TEACHER}
