"""What a measurement has to say against itself, with the cause where it can be told."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from niwaki.search.targets._timing import NOISY, Estimate

_OFTEN = 0.1
"""Share of interrupted runs that is worth a word: some come from the system itself."""
_CROWDED = 0.97
"""Cores that others left free, over threads, below which they were in each other's way."""


def company(dropped: float, threads: int, free: float, lost: float = 0.0) -> Iterator[str]:
    """Other processes, as far as they could be seen.

    Args:
        dropped: share of runs that were interrupted.
        free: cores that other processes left, on average; infinite where that is not known.
        lost: share of the time of measuring in which the one thread did not run.
    """
    if dropped > _OFTEN:
        yield f"another process ran on the measured core in {dropped:.0%} of the runs, which were dropped"
    elif lost > _OFTEN:
        yield f"another process had the measured core for {lost:.0%} of the time; the least of short runs stands that"
    if free < _CROWDED * threads:
        yield (
            f"other processes left {free:.1f} cores to {threads} threads; with several threads, runs that they "
            "disturbed cannot be told from others"
        )


def lacks(found: Mapping[str, Estimate], kept: Mapping[str, int], runs: int) -> Iterator[str]:
    """What keeps the noisy ones among the figures from being trusted.

    Args:
        kept: undisturbed runs by model.
        runs: how many were planned at least.
    """
    noisy = {name: estimate for name, estimate in found.items() if estimate.noisy}
    if cpu := [name for name, estimate in noisy.items() if not estimate.clean]:
        yield f"every run of {_some(cpu)} was interrupted: the figures are CPU time"
    if few := [name for name in noisy if kept[name] < runs]:
        yield f"fewer than {runs} undisturbed runs of {_some(few)}"
    if alone := [name for name, estimate in noisy.items() if math.isnan(estimate.low)]:
        yield f"a single round of {_some(alone)} does not say how far the figure can be trusted"
    wide = {n: (e.high - e.low) / e.least / 2 for n, e in noisy.items() if e.high - e.low > NOISY * e.least}
    if wide:
        drift = max(found[name].spread for name in wide)
        yield (
            f"rounds drift by {drift:.0%}: the clock rate or a neighbour changes; {_some(list(wide))}: "
            f"known to within {max(wide.values()):.0%}"
        )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
