"""Which way the expected cost is pushed: by where the likeliest candidate stands against the budget."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def directions(
    costs: Mapping[str, float], limits: Mapping[str, float], largest: Mapping[str, float], tolerance: float = 0.05
) -> dict[str, int]:
    """Budget -> +1 where its expected cost has to fall, -1 where it may rise; budgets that are met are absent.

    The rule of TAS's code for a single budget R: down where F > R, up where F < R - tolerance * F_max, nothing between.
    The band lies below R and is as wide as ``tolerance`` of the *largest* model's cost; in the paper it reaches to both
    sides and is a share of R. Of several budgets all that are broken go down; up goes the tightest where none is.

    Args:
        costs: of the likeliest candidate, with dropped blocks counted as dropped.
        limits, largest: the budgets; what the largest candidate costs.

    Example:
        >>> [directions({"macs": f}, {"macs": 60}, {"macs": 100}) for f in (61, 60, 55, 54)]
        [{'macs': 1}, {}, {}, {'macs': -1}]
    """
    broken = {name: 1 for name, limit in limits.items() if costs[name] > limit}
    if broken or not limits:
        return broken
    tightest = max(limits, key=lambda name: costs[name] / limits[name])
    low = limits[tightest] - tolerance * largest[tightest]
    return {tightest: -1} if costs[tightest] < low else {}


def cost_loss(log_expected: Mapping[str, Tensor], pushed: Mapping[str, int]) -> Tensor:
    """Sum of +log E over budgets that are broken, -log E where there is room; exactly zero inside the band."""
    return sum((sign * log_expected[name] for name, sign in pushed.items()), torch.zeros((), dtype=torch.float64))
