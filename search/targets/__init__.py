"""Where latency is measured: one runtime a file, and the one way of timing that all of them share."""

from niwaki.search.targets._base import Run, Target, Timer
from niwaki.search.targets._inputs import repeated
from niwaki.search.targets._machine import machine
from niwaki.search.targets._measure import MeasurePlan, measure, measure_runs
from niwaki.search.targets._spec import parse, spec_of
from niwaki.search.targets._timing import Timing

__all__ = [
    "MeasurePlan", "Run", "Target", "Timer", "Timing", "machine", "measure", "measure_runs", "parse", "repeated",
    "spec_of",
]
