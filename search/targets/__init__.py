"""Where latency is measured: one runtime a file, and the one way of timing that all of them share."""

from niwaki.search.targets._base import MeasurePlan, Target, Timing, machine, measure, parse

__all__ = ["MeasurePlan", "Target", "Timing", "machine", "measure", "parse"]
