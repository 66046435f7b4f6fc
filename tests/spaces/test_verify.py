"""The guard: it agrees with right rules node by node, and it catches a wrong one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from niwaki.spaces import derive
from niwaki.spaces import rules as all_rules
from niwaki.spaces.carve import carve
from niwaki.spaces.cut import Cut
from niwaki.spaces.passes import Call
from niwaki.spaces.verify import RuleError
from tests.spaces.reference import draw
from tests.zoo import SMALL, build


@pytest.mark.parametrize("name", list(SMALL))
def test_every_node_has_the_shape_its_rule_says(name: str) -> None:
    model, x = build(name)
    space = derive(model, x)
    for seed in range(2):
        candidate, kept = draw(space, seed)
        compared = Cut(model, space, candidate, kept).verify()
        assert compared > sum(1 for _ in model.parameters())


def test_a_wrong_rule_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """flip taken for an operation that swaps channels and space."""

    def wrong(call: Call) -> None:
        b, c, *space = call.dims(call.node.args[0])
        call.out([b, call.data(8), *space])
        _ = c

    class Flips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.flip(self.a(x), dims=(1,)))

    monkeypatch.setitem(all_rules.ALL, "aten.flip.default", wrong)
    model = Flips()
    space = derive(model, torch.randn(2, 3, 4, 4))
    with pytest.raises(RuleError, match=r"aten.flip.default \(test_verify.py:\d+\) gives .* its rule says"):
        carve(model, space, space.uniform(0.5))
