from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from niwaki.pruning import Needs, score_groups
from niwaki.pruning.criteria.l2 import L2


@dataclass(frozen=True)
class Broken:
    value: float
    extra: int = 0
    needs: ClassVar[Needs] = Needs()

    def score(self, group, stats):
        return torch.full((group.units + self.extra,), self.value)


def test_every_group_is_scored_under_its_name(net, space):
    scores = score_groups(net, space, L2())
    assert {k: v.shape for k, v in scores.items()} == {g.name: (g.units,) for g in space.groups}


@pytest.mark.parametrize("criterion", [Broken(float("nan")), Broken(float("inf")), Broken(1.0, extra=1)])
def test_a_criterion_that_breaks_its_contract_is_named(net, space, criterion):
    with pytest.raises(ValueError, match=r"Broken\(.*group conv: expected \(6,\) finite scores"):
        score_groups(net, space, criterion)
