"""The global rule against an explicit loop over thresholds, on a real network with streams and ties."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from niwaki.search.costing import Costing, Limits
from niwaki.search.magnitude import magnitude
from niwaki.spaces import Space, SpaceOptions, derive


class Residual(nn.Module):
    """Two residual blocks over one stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(6, 12)
        self.a, self.b = (nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 12)) for _ in range(2))
        self.head = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.a(x)
        x = x + self.b(x)
        return self.head(x)  # type: ignore[no-any-return]


ALL = SpaceOptions(ratios=tuple(i / 16 for i in range(1, 17)), depth=False)
SPACE: Space = derive(Residual(), torch.randn(2, 6), ALL)
COSTING = Costing(SPACE)
GENERATOR = torch.Generator().manual_seed(0)
SCORES = {g.name: torch.rand(g.units, generator=GENERATOR) * 10**i for i, g in enumerate(SPACE.groups)}


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("share", [0.8, 0.6, 0.45])
def test_as_the_loop_over_thresholds(streams: bool, share: float) -> None:
    limit = share * COSTING.cost(SPACE.largest()).macs
    found = magnitude(SPACE, SCORES, COSTING, Limits({"macs": limit}, {}), streams)
    normal = {n: s / s.mean() for n, s in SCORES.items()}
    for threshold in sorted(float(v) for s in normal.values() for v in s):
        widths = {}
        for group in SPACE.groups:
            kept = int((normal[group.name].double() >= threshold - 1e-9).sum())
            nearest = min(group.choices, key=lambda w: (abs(w - kept), w))
            widths[group.name] = group.units if group.stream and not streams else nearest
        if SPACE.cost(type(SPACE.largest())(widths)).macs <= limit:
            break
    assert found is not None
    assert found.widths == widths
    assert any(g.stream for g in SPACE.groups)
    assert COSTING.cost(found).macs <= limit


def test_the_scale_of_a_group_does_not_count() -> None:
    limits = Limits({"macs": 0.6 * COSTING.cost(SPACE.largest()).macs}, {})
    scaled = {n: s * 100 ** (i % 2) for i, (n, s) in enumerate(SCORES.items())}
    assert magnitude(SPACE, SCORES, COSTING, limits) == magnitude(SPACE, scaled, COSTING, limits)


def test_groups_that_are_tied_keep_equally_many() -> None:
    space = derive(Residual(), torch.randn(2, 6), SpaceOptions(ratios=ALL.ratios, depth=False, tie=(("a.0", "b.0"),)))
    limits = Limits({"macs": 0.6 * space.cost(space.largest()).macs}, {})
    found = magnitude(space, SCORES, Costing(space), limits)
    assert found is not None
    assert found.widths["a.0"] == found.widths["b.0"] < 16


def test_scores_that_say_nothing_and_a_limit_out_of_reach() -> None:
    flat = {n: torch.zeros_like(s) for n, s in SCORES.items()}
    full = COSTING.cost(SPACE.largest()).macs
    assert magnitude(SPACE, flat, COSTING, Limits({"macs": float(full)}, {})) == SPACE.largest()
    assert magnitude(SPACE, flat, COSTING, Limits({"macs": 1.0}, {}), streams=True) is None
