"""Outcomes that nobody trained for, of the made-up space: for tests of what keeps and shows outcomes."""

from __future__ import annotations

import numpy as np

from niwaki.search.outcome import Job, Kind, Outcome
from tests.search.fake_space import FakeSpace

SPACE = FakeSpace()


def outcomes(count: int, seed: int = 0, failed: float = 0.3) -> list[Outcome]:
    """``count`` outcomes of different jobs, about a share ``failed`` of them failures."""
    rng = np.random.default_rng(seed)
    return [outcome(rng, number, bool(rng.random() < failed)) for number in range(count)]


def outcome(rng: np.random.Generator, number: int, fails: bool) -> Outcome:
    """One of them; jobs with different numbers have different keys."""
    candidate = SPACE.decode([int(rng.integers(len(v.choices))) for v in SPACE.variables])
    kinds: tuple[Kind, ...] = ("search", "final", "uniform", "random")
    kind, rung, images = kinds[int(rng.integers(4))], int(rng.integers(3)), int(rng.integers(1, 999))
    job = Job(candidate, kind, rung, images, number, level=float(rng.uniform(0.1, 1)))
    if fails:
        return Outcome(job, SPACE.cost(candidate), {}, "failed", f"Traceback ...\n  line 7\nValueError: no {number}")
    metrics = {"accuracy": float(rng.random()), "loss": float(rng.exponential())}
    return Outcome(job, SPACE.cost(candidate), metrics, images=int(rng.integers(999)), seconds=float(rng.exponential()))
