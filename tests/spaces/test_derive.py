"""What deriving finds and refuses: tied layers, pins with reasons, safety against what no rule understands."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from niwaki.spaces import Candidate, InputError, SpaceOptions, carve, derive, mask
from tests.spaces.reference import draw, relative
from tests.zoo import build

GROUPS = {
    "chain": 3,
    "residual_a": 9,
    "residual_b": 8,
    "preactivation": 4,
    "dense": 5,
    "branches": 6,
    "inverted": 6,
    "grouped": 4,
    "multiplier": 2,
    "twice": 1,
    "gate": 1,
    "decoder": 2,
}


@pytest.mark.parametrize(("name", "count"), GROUPS.items())
def test_number_of_groups(name: str, count: int) -> None:
    model, x = build(name)
    assert len(derive(model, x).groups) == count


class Unknown(nn.Module):
    """cumsum over channels has no rule: what it touches stays whole, the rest can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.cumsum(self.a(x), dim=1))))


def test_an_unknown_operation_is_pinned_with_its_line() -> None:
    model, x = Unknown().eval(), torch.randn(2, 3, 6, 6)
    space = derive(model, x)
    assert [g.name for g in space.groups] == ["b"]
    fixed = next(f for f in space.fixed if f.name == "a")
    assert "aten.cumsum.default" in fixed.reason
    assert fixed.where.startswith("test_derive.py:")
    candidate, kept = draw(space, 1)
    with torch.no_grad():
        assert relative(carve(model, space, candidate, kept)(x), mask(model, space, candidate, kept)(x)) < 1e-5


class Attention(nn.Module):
    """An attention mask is an input that a careless rule would ignore."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.m = (nn.Linear(8, 8) for _ in range(4))
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x), attn_mask=self.m(x)[:, :, :5])
        return self.out(y).mean(1)


def test_every_input_of_attention_is_followed() -> None:
    """The mask that is added to the scores is an input, too: a rule that forgets it cuts wrong."""
    model, x = Attention().eval(), torch.randn(2, 5, 8)
    space = derive(model, x)
    assert {"q", "v"} <= {g.name for g in space.groups}
    for seed in range(3):
        candidate, kept = draw(space, seed)
        with torch.no_grad():
            assert relative(carve(model, space, candidate, kept)(x), mask(model, space, candidate, kept)(x)) < 1e-5


def test_deriving_again_from_a_student_finds_the_groups_again() -> None:
    for name in ("residual_a", "dense", "inverted"):
        model, x = build(name)
        space = derive(model, x)
        student = carve(model, space, space.uniform(0.5))
        again = derive(student, x)
        widths = space.uniform(0.5).widths
        assert {g.name: g.units for g in again.groups} == {n: w for n, w in widths.items() if w >= 4}


def test_units_of_fewer_than_four_and_outputs_are_fixed() -> None:
    space = derive(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 7, 1)), torch.randn(2, 3, 4, 4))
    assert not space.groups
    assert {f.name: f.reason for f in space.fixed} == {"0": "fewer than 4 units", "2": "feeds the output"}


def test_keeping_any_layer_of_a_group_keeps_the_group() -> None:
    model, x = build("residual_a")
    space = derive(model, x, SpaceOptions(keep=("layer1.1.conv2",), sparsity=("0.5",)))
    assert "stem.0" not in {g.name for g in space.groups}
    assert "layer1.1.conv2" not in space.sparsities
    assert "layer1.1.conv1" in space.sparsities


def test_unused_parameters_are_no_groups() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    model = Idle()
    space = derive(model, torch.randn(2, 4))
    assert not space.groups
    assert space.cost(space.largest()).params == sum(p.numel() for p in model.parameters())
    assert set(carve(model, space, space.largest()).state_dict()) == set(model.state_dict())


def test_a_branch_that_changes_its_input_in_place() -> None:
    """What the block leaves behind is the changed input: removing it must not undo the activation."""

    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
            self.body = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(x + self.body(x))

    model, x = InPlace().eval(), torch.randn(2, 3, 4, 4)
    space = derive(model, x)
    student = carve(model, space, Candidate(space.largest().widths, frozenset({"body"})))
    nn.init.zeros_(model.body[2].weight)  # type: ignore[arg-type]
    nn.init.zeros_(model.body[2].bias)  # type: ignore[arg-type]
    with torch.no_grad():
        assert relative(student(x), model(x)) < 1e-5


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_any_batch_of_the_example_serves(batch: int) -> None:
    model, x = build("residual_b")
    space = derive(model, x[:1].repeat(batch, 1, 1, 1))
    assert len(space.groups) == GROUPS["residual_b"]
    assert carve(model, space, space.smallest()).eval()(x[:1].repeat(7, 1, 1, 1)).shape[0] == 7


def test_a_model_that_cannot_be_traced_is_an_input_error() -> None:
    class Stubborn(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * float(x.sum().item())

    with pytest.raises(InputError, match=r"Stubborn.*torch.export"):
        derive(Stubborn(), torch.randn(2, 3))


def test_mode_and_statistics_of_the_teacher_stay() -> None:
    model, x = build("residual_b")
    model.train()
    model.layer1[0].eval()  # type: ignore[index,operator]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    space = derive(model, x)
    carve(model, space, space.smallest())
    assert model.training
    assert not model.layer1[0].training  # type: ignore[index,union-attr]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
