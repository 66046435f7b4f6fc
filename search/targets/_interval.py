"""How far a least time is to be trusted: a 90 % interval from the rounds that it is the least of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

_DOUBT = 0.1
_BLOCKS = 4


def interval(rounds: Sequence[float]) -> tuple[float, float]:
    """90 % interval of what measuring again with as many rounds would give; its lower end bounds the undisturbed time.

    Rounds that follow each other resemble each other, so they are first gathered into four blocks, each with its least
    time: phases of the machine that are longer than a round then count once. Disturbance only adds time: the blocks'
    least times are taken to be the undisturbed time plus exponentially distributed delays. With r1 the least of n
    blocks and S the sum of all excesses over r1, n * (r1 - undisturbed) / S and n * (r1 of a repetition - r1) / S then
    have distributions without unknowns; their tails hold ``(1 + t) ** -(n - 1)`` and half of that, which gives the
    ends. (Resampling the rounds would not do: a least value drawn again never lies below the one at hand.)

    Simulated, independent delays of other kinds were covered 80-95 % of the time. Phases longer than the measurement
    are not in the interval; what of them is common to all models cancels in ratios.

    Args:
        rounds: (n,) least time of each round, any unit, in the order in which they were measured.

    Returns:
        (low, high) around the least, not below 0; NaN for fewer than two rounds, which say nothing.

    Example:
        >>> low, high = interval([10.0, 10.1, 10.1, 10.2])
        >>> round(low, 2), round(high, 2)
        (9.88, 10.12)
    """
    count = min(len(rounds), _BLOCKS)
    if count < 2:
        return float("nan"), float("nan")
    ends = [len(rounds) * block // count for block in range(count + 1)]
    blocks = [min(rounds[start:end]) for start, end in pairwise(ends)]
    least = min(blocks)
    half: float = sum(b - least for b in blocks) / count * (_DOUBT ** (-1 / (count - 1)) - 1)
    return max(0.0, least - half), least + half
