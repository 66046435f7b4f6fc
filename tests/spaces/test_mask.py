"""The masked reference, against zeros that are put into the weights by hand, and against arithmetic by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from niwaki.spaces import Candidate, InputError, carve, derive, mask
from tests.spaces.reference import draw, masked, relative
from tests.zoo import build, randomise


@pytest.mark.parametrize("name", ["chain", "residual_a", "dense", "grouped", "shuffle", "decoder"])
def test_equals_zeros_in_the_weights(name: str) -> None:
    model, x = build(name)
    space = derive(model, x)
    candidate, kept = draw(space, 3)
    with torch.no_grad():
        assert relative(mask(model, space, candidate, kept)(x), masked(model, space, candidate, kept)(x)) < 1e-12


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)))


def test_statistics_are_those_of_the_kept_units() -> None:
    model, x = randomise(Normed()).double(), torch.randn(2, 4, dtype=torch.float64)
    space = derive(model, x)
    assert [(g.name, g.exact) for g in space.groups] == [("a", False)]
    kept = torch.tensor([1, 4, 6])
    h = model.a(x)[:, kept]
    h = (h - h.mean(1, keepdim=True)) / (h.var(1, unbiased=False, keepdim=True) + model.norm.eps).sqrt()
    h = h * model.norm.weight[kept] + model.norm.bias[kept]
    by_hand = h @ model.b.weight[:, kept].T + model.b.bias
    found = mask(model, space, Candidate({"a": 3}), {"a": kept})(x)
    assert relative(found, by_hand) < 1e-12
    assert relative(carve(model, space, Candidate({"a": 3}), {"a": kept})(x), by_hand) < 1e-12


class Writes(nn.Module):
    """Writes through a view into a tensor that is read later, as Swin v2 does with the bias of its keys."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).clone()
        h[:, :4].zero_()
        return self.b(h)


def test_writes_through_views_are_kept() -> None:
    model, x = randomise(Writes()).double(), torch.randn(2, 4, dtype=torch.float64)
    space = derive(model, x)
    reference = mask(model, space, space.largest())
    with torch.no_grad():
        assert torch.equal(reference(x), model(x))
    candidate, kept = draw(space, 0)
    assert relative(carve(model, space, candidate, kept)(x), mask(model, space, candidate, kept)(x)) < 1e-12


def test_modes_batches_and_the_teacher() -> None:
    """Train mode normalises by the batch and leaves the teacher's statistics alone; any batch size goes."""
    model, x = build("residual_b")
    space = derive(model, x)
    candidate, kept = draw(space, 1)
    reference = mask(model, space, candidate, kept)
    assert not reference.training
    before = {k: v.clone() for k, v in model.state_dict().items()}
    student = carve(model, space, candidate, kept).train()
    with torch.no_grad():
        assert relative(student(x), reference.train()(x)) < 1e-9
        assert reference.eval()(x.repeat(3, 1, 1, 1)).shape[0] == 6
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_wrong_choices_are_named() -> None:
    model, x = build("chain")
    space = derive(model, x)
    with pytest.raises(InputError, match="has 8 units, asked for 9"):
        mask(model, space, Candidate({**space.largest().widths, "0.0": 9}))
