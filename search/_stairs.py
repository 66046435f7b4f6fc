"""What a column of times by width says: is there a grid outside of which widths waste time, and does padding pay?

Where the time of a width lies above the straight line between the two multiples of a step around it, a network does
better with one layer at the upper multiple and one at the lower: the width between is waste. On the line nothing is
wasted (and nothing won by a grid), below it the grid would lose.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log, sqrt

Times = Mapping[int, float]
STEPS = (16, 8, 4, 2)
_SHARE = 0.25
"""A step counts where this much of a full plateau's waste is there: constant overhead hides the rest."""
_LOSS = 0.08
"""No step that forbids widths which are better than its multiples by more than this."""
_EVEN = 0.02
"""Padding further must win more than this."""


def grid_step(times: Times, noise: float = 0.0) -> int:
    """The largest step of :data:`STEPS` whose odd halves are wasteful, and between whose multiples no width is cheap.

    Args:
        times: by width; any unit.
        noise: how uncertain one time is, as a fraction.

    Example:
        >>> grid_step({c: -(-c // 8) for c in range(8, 65)}), grid_step({c: c + 5 for c in range(8, 65)})
        (8, 1)
    """
    for step in STEPS:
        excess = _excess(times, step)
        halves = {c: e for c, e in excess.items() if 2 * c % step == 0}
        full = sum(step / 2 / c for c in halves)  # what they are above the line on a plateau
        if not halves or sum(halves.values()) < max(_SHARE * full, 2.5 * noise * sqrt(len(halves))):
            continue
        lowest = sorted(excess.values())[len(excess) // 10]
        if lowest >= -max(_LOSS, 2 * noise):
            return step
    return 1


def pad_step(times: Times) -> int:
    """The smallest step to whose next multiple widths are filled up with most gain on average; 1 where none pays.

    Example:
        >>> pad_step({c: c if c % 4 == 0 else 1.5 * c for c in range(8, 65)})
        4
    """
    change = {1: 0.0}
    for step in STEPS:
        ratios = [log(times[up] / t) for c, t in times.items() if (up := -(-c // step) * step) in times]
        change[step] = sum(ratios) / len(ratios) if ratios else 0.0
    least = min(change.values())
    return min(step for step, mean in change.items() if exp(mean) <= exp(least) + _EVEN)


def waste(times: Times, step: int) -> float:
    """The largest time of a width over that of the next multiple of ``step``; at least 1.

    Example:
        >>> waste({16: 1.0, 17: 3.0, 32: 2.0}, 16)
        1.5
    """
    return max((t / times[up] for c, t in times.items() if (up := -(-c // step) * step) in times), default=1.0)


def _excess(times: Times, step: int) -> dict[int, float]:
    """Width between multiples of ``step`` -> how far its time lies above the line between theirs, as a fraction."""
    found = {}
    for c, t in times.items():
        low = c // step * step
        if low != c and low in times and low + step in times:
            line = times[low] + (times[low + step] - times[low]) * (c - low) / step
            found[c] = t / line - 1
    return found
