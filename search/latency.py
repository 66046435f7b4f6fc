"""Calibrate the latency model of a space on a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from niwaki.search.bench import TEACHER, Measures, Progress
from niwaki.search.targets import MeasurePlan
from niwaki.spaces import Space
from niwaki.spaces.latency import LatencyModel, Sample
from niwaki.spaces.types import Candidate


@dataclass(frozen=True)
class CalibrationPlan:
    """What to measure: ``samples`` candidates over the whole space, the largest and the smallest among them.

    Attributes:
        samples: at least 4; 24 or more are better. Small spaces may hold fewer different candidates.
        measure: how long.
        seed: of the candidates drawn.
        profile: runs of each candidate under the target's profiler, where it has one.
    """

    samples: int = 48
    measure: MeasurePlan = field(default_factory=MeasurePlan)
    seed: int = 0
    profile: int = 12


def calibrate(
    bench: Measures, plan: CalibrationPlan | None = None, progress: Progress | None = None
) -> LatencyModel:
    """Measure candidates interleaved with the teacher and fit the latency model to them.

    Args:
        bench: where; which units the candidates keep does not matter.
        progress: called with (steps done, steps).
    """
    plan, space = plan or CalibrationPlan(), bench.space
    candidates = calibration_candidates(space, plan.samples, plan.seed)
    machine = bench.machine()  # before: the load that it tells is not our own
    timing = bench.time(candidates, plan.measure, progress)
    source = machine | {
        "models": len(timing.ms), "noisy_models": len(timing.noisy), "interrupted_runs": round(timing.dropped, 4),
        "spread_of_rounds": round(float(np.median(list(timing.spread.values()))), 4), "warnings": list(timing.warnings),
    }
    return LatencyModel.fit(space, samples(bench, candidates, timing.ms, plan.profile), timing.ms[TEACHER], source)


def samples(
    bench: Measures, candidates: Sequence[Candidate], ms: Mapping[str, float], runs: int, scale: float = 1.0
) -> list[Sample]:
    """Measured candidates with what the target's profiler says of their operations, milliseconds times ``scale``."""
    profiles = bench.profile(candidates, runs) if runs else {}
    return [
        Sample(tuple(bench.space.encode(c)), ms[c.key] * scale, operations=profiles.get(c.key, {})) for c in candidates
    ]


def extend(
    model: LatencyModel, bench: Measures, candidates: Sequence[Candidate], plan: CalibrationPlan
) -> LatencyModel:
    """The model fitted again with further candidates: measured now, on the scale of the first calibration.

    A search goes where budgets bind, which is rarely where the first candidates were drawn.
    """
    known = {s.candidate for s in model.samples}
    new = [c for c in candidates if tuple(bench.space.encode(c)) not in known]
    if not new:
        return model
    timing = bench.time(new, plan.measure)
    scale = model.anchor_ms / timing.ms[TEACHER]
    return model.with_samples(samples(bench, new, timing.ms, plan.profile, scale))


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
