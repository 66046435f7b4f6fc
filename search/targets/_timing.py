"""Times of one model round by round, and what is said of many models together."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from niwaki.search.targets._base import HasTimer, Run, Target, Timer
from niwaki.search.targets._interval import interval

SPOILED = 1.03
"""A run whose wall time exceeds its own CPU time by this factor was interrupted by another process."""
NOISY = 0.05
"""An interval wider than this share of the figure makes a measurement ``noisy``."""


@dataclass(frozen=True)
class Timing:
    """What measuring found.

    Attributes:
        ms: milliseconds of one batch, by model name: the least over all unspoiled runs. (Rounds in which every run was
            interrupted count with their least CPU time.)
        spread: (median over rounds of the round's least) / ms - 1, by model name; 0.02 = rounds differ by 2 %.
        noisy: models without a single unspoiled run (their ms is CPU time), or whose interval is wider than 5 % of ms.
        dropped: share of all runs dropped because another process interrupted them (one thread only, else 0).
        low: lower end of the 90 % interval of ms, by model name; NaN where one round is all there is.
        high: its upper end; see :func:`niwaki.search.targets._interval.interval`.
        warnings: what was wrong with the machine, for the user; empty where the figures can be trusted.
    """

    ms: Mapping[str, float]
    spread: Mapping[str, float]
    noisy: tuple[str, ...] = ()
    dropped: float = 0.0
    low: Mapping[str, float] = field(default_factory=dict)
    high: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values; an end of an interval that is not known is null."""
        low, high = ({n: v if math.isfinite(v) else None for n, v in ends.items()} for ends in (self.low, self.high))
        return {
            "ms": dict(self.ms), "spread": dict(self.spread), "noisy": list(self.noisy), "dropped": self.dropped,
            "low": low, "high": high, "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class Estimate:
    """Seconds of a model: least, ends of the interval, spread of rounds; ``clean``: some runs were undisturbed."""

    least: float
    low: float
    high: float
    spread: float
    clean: bool

    @property
    def noisy(self) -> bool:
        return not self.clean or not self.high - self.low <= NOISY * self.least


@dataclass
class Clock:
    """Least seconds of one model, round by round: wall time of undisturbed runs, CPU time where there are none.

    Where every run was interrupted (a model that runs longer than the scheduler's time slice on a busy core) the CPU
    time of the one thread is far nearer the truth than the wall: 15.1 against 26.8 ms for a 15.0 ms model.

    Attributes:
        rounds: least seconds of each.
        kept: undisturbed runs in all rounds.
        dropped: interrupted runs.
    """

    run: Run
    timer: Timer
    rounds: list[float] = field(default_factory=list)
    kept: int = 0
    dropped: int = 0

    def round(self, seconds: float, runs: int) -> None:
        """Time runs for ``seconds`` and at least ``runs`` times, after one run to warm the caches."""
        clean, spoiled = math.inf, math.inf
        self.run()
        end = time.perf_counter() + seconds
        done = 0
        while done < runs or time.perf_counter() < end:
            took, own = self.timer(self.run)
            if took <= SPOILED * own:
                clean = min(clean, took)
                self.kept += 1
            else:
                spoiled = min(spoiled, own)
                self.dropped += 1
            done += 1
        self.rounds.append(clean if clean < math.inf else spoiled)

    def estimate(self) -> Estimate:
        """From all rounds so far."""
        least, median = min(self.rounds), sorted(self.rounds)[len(self.rounds) // 2]
        return Estimate(least, *interval(self.rounds), median / least - 1, self.kept > 0)


def timer_of(target: Target) -> Timer:
    """The target's own; else wall time, beside the CPU time of the calling thread where that does all the work."""
    if isinstance(target, HasTimer):
        return target.timer()
    return thread_timer if target.threads == 1 else _wall


def thread_timer(run: Run) -> tuple[float, float]:
    """Wall seconds, and CPU seconds of this thread."""
    cpu, wall = time.thread_time(), time.perf_counter()
    run()
    wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
    return wall, cpu


def _wall(run: Run) -> tuple[float, float]:
    """Threads wait for each other: CPU time below threads * wall says nothing about other processes."""
    wall = time.perf_counter()
    run()
    wall = time.perf_counter() - wall
    return wall, wall
