"""One threshold for the scores of all groups: the global magnitude rule, a strong allocation without any training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from niwaki.search.costing import Costing, Floats, Ints, Limits
from niwaki.spaces import Candidate, Space

_THRESHOLDS = 1024
"""Thresholds tried at most, evenly spread over the scores."""


def magnitude(
    space: Space, scores: Mapping[str, Tensor], costing: Costing, limits: Limits, streams: bool = False
) -> Candidate | None:
    """Keep the units of largest score, whatever their group, as many as fit; full depth, dense.

    Scores are divided by their group's mean first (Fang et al., DepGraph, CVPR 2023), so that layers compare. Widths
    are the nearest on offer; groups that are tied keep equally many, by their mean at each rank.

    Args:
        scores: group -> (units,), larger = keep.
        costing: of ``space``.
        limits: which hold together.
        streams: cut residual streams too, instead of leaving them whole.

    Returns:
        None where no threshold fits.

    Example:
        >>> import torch
        >>> from niwaki.spaces import derive
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        >>> space = derive(model, torch.randn(2, 8))
        >>> magnitude(space, {"0": torch.arange(32.0)}, Costing(space), Limits({"macs": 200.0}, {})).widths
        {'0': 16}
    """
    ranked = [_ranked(space, v.name, scores, streams) if v.kind == "width" else None for v in space.variables]
    values = np.unique(np.concatenate([r for r in ranked if r is not None] or [np.zeros(0)]))
    values = values[np.linspace(0, max(len(values) - 1, 0), min(len(values), _THRESHOLDS)).astype(np.int64)]
    thresholds = np.concatenate([[-np.inf], values, [np.inf]])
    rows = np.stack([
        np.full(len(thresholds), len(v.choices) - 1) if r is None else _nearest(r, thresholds, np.array(v.choices))
        for v, r in zip(space.variables, ranked, strict=True)
    ], axis=1)  # fmt: skip
    rows = rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])]
    fits = limits.fraction(costing(rows)) <= 1
    return space.canonical(space.decode(rows[int(np.argmax(fits))].tolist())) if fits.any() else None


def _ranked(space: Space, name: str, scores: Mapping[str, Tensor], streams: bool) -> Floats | None:
    """``(units,)`` scores over their mean, ascending, of a width variable; None where it stays whole."""
    members = space.members[name]
    if not streams and any(g.stream for g in space.groups if g.name in members):
        return None
    found = []
    for member in members:
        values = np.sort(scores[member].double().cpu().numpy())
        values = values - min(values[0], 0.0)
        found.append(values / values.mean() if values.mean() > 0 else np.ones(len(values)))
    return np.mean(found, axis=0)  # type: ignore[no-any-return]


def _nearest(ranked: Floats, thresholds: Floats, choices: Ints) -> Ints:
    """``(N,)`` index of the width that is nearest to the number of units at or above each threshold."""
    kept = len(ranked) - np.searchsorted(ranked, thresholds, side="left")
    return np.abs(choices[None] - kept[:, None]).argmin(axis=1)  # type: ignore[no-any-return]
