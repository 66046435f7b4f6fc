"""Over a zoo: largest is the teacher, carved equals masked, costs are exact, the teacher stays untouched."""

from __future__ import annotations

import copy
import io
import pickle
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from niwaki.spaces import Candidate, InputError, Space, carve, count, derive
from niwaki.spaces.cut import Cut
from niwaki.spaces.keeps_class import keeps_class
from niwaki.spaces.source import SourceModule
from tests.spaces.reference import draw, masked, relative
from tests.zoo import SMALL, TORCHVISION, build

ZOO = [*SMALL, *TORCHVISION]


@cache
def case(name: str) -> tuple[nn.Module, Tensor, Space]:
    model, x = build(name)
    return model, x, derive(model, x)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items()}


@pytest.mark.parametrize("name", ZOO)
def test_zoo(name: str) -> None:
    model, x, space = case(name)
    before, training = snapshot(model), model.training
    with torch.no_grad():
        truth = model(x)
        assert torch.equal(carve(model, space, space.largest()).eval()(x), truth)
        everything = {g.name: torch.arange(g.units) for g in space.groups}
        assert relative(Cut(model, space, space.largest(), everything).as_source().eval()(x), truth) < 1e-12
        assert space.cost(space.largest()) == count(model, x)
        for seed in range(2 if name in TORCHVISION else 4):
            candidate, kept = draw(space, seed)
            student = carve(model, space, candidate, kept).eval()
            assert relative(student(x), masked(model, space, candidate, kept)(x)) < 1e-9
            assert space.cost(candidate) == count(student, x)
            assert student(x[:1].repeat(3, *[1] * (x.dim() - 1))).shape[0] == 3
    assert model.training == training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", list(SMALL))
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_random_candidates(name: str, seed: int) -> None:
    model, x, space = case(name)
    candidate, kept = draw(space, seed)
    student = carve(model, space, candidate, kept).eval()
    with torch.no_grad():
        assert relative(student(x), masked(model, space, candidate, kept)(x)) < 1e-9
    assert space.cost(candidate) == count(student, x)


@pytest.mark.parametrize("name", ["residual_a", "shuffle", "dense", "inverted", "mobilenet_v3_small", "googlenet"])
@pytest.mark.parametrize("route", ["class", "source"])
def test_student_is_an_ordinary_module(name: str, route: str) -> None:
    model, x, space = case(name)
    candidate, kept = draw(space, 5)
    cut = Cut(model, space, candidate, kept)
    if route == "class" and not keeps_class(model, space, candidate.skipped):
        pytest.skip("the user's class does not survive")
    student = cut.as_class() if route == "class" else cut.as_source()
    with torch.no_grad():
        expected = student.eval()(x)
    stream = io.BytesIO()
    torch.save(student.state_dict(), stream)
    stream.seek(0)
    other = carve(model, space, candidate)
    other.load_state_dict(torch.load(stream, weights_only=True))
    for twin in (copy.deepcopy(student), pickle.loads(pickle.dumps(student)), other):
        with torch.no_grad():
            assert relative(twin.eval()(x), expected) < 1e-12
    assert set(student.state_dict()) <= set(model.state_dict())
    trains(student, x)
    with torch.no_grad():
        assert not torch.equal(student.eval()(x), expected)
    assert student.to("meta")(x.to("meta")).shape == expected.shape


def trains(student: nn.Module, x: Tensor) -> None:
    """One step of SGD changes every parameter that got a gradient, and BatchNorm counts the batch."""
    student.train()
    counts = {k: int(v) for k, v in student.state_dict().items() if k.endswith("num_batches_tracked")}
    optimiser = torch.optim.SGD(student.parameters(), lr=0.1)
    before = snapshot(student)
    out = student(x)
    (out if isinstance(out, Tensor) else sum(o.sum() for o in out)).square().sum().backward()
    moved = [k for k, p in student.named_parameters() if p.grad is not None and p.grad.abs().max() > 1e-9]
    optimiser.step()
    assert moved
    assert all(not torch.equal(before[k], student.state_dict()[k]) for k in moved)
    assert all(int(student.state_dict()[k]) == n + 1 for k, n in counts.items())


def test_source_trains_as_the_class_does() -> None:
    """Same seed, train mode: outputs, gradients and running statistics of both routes are equal."""
    model, x, space = case("residual_b")
    candidate, kept = draw(space, 2)
    cut = Cut(model, space, candidate, kept)
    results = []
    for student in (cut.as_class().train(), cut.as_source().train()):
        torch.manual_seed(0)
        out = student(x)
        out.square().sum().backward()
        results.append((out, dict(student.named_parameters()), student.state_dict()))
    (a, pa, sa), (b, pb, sb) = results
    assert relative(a, b) < 1e-12
    assert pa.keys() == pb.keys()
    assert all(relative(pa[k].grad, pb[k].grad) < 1e-9 for k in pa)
    assert all(torch.allclose(sa[k].double(), sb[k].double()) for k in sa)


def test_routes() -> None:
    """Option A pads with a constant of the user's Python: the class cannot survive. Projections can."""
    for name, kept_class in (
        ("residual_a", False),
        ("residual_b", True),
        ("chain", True),
        ("grouped", True),
        ("inverted", True),
    ):
        model, _, space = case(name)
        student = carve(model, space, space.uniform(0.3))
        assert isinstance(student, type(model) if kept_class else SourceModule)


class Noisy(nn.Module):
    """Stochastic depth draws from the generator: in another precision it draws other numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.outer = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1)
        self.drop, self.head = StochasticDepth(0.5, "row"), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.drop(self.outer(torch.relu(self.inner(x)))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_randomness_does_not_cost_the_class(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Noisy().to(dtype)
    space = derive(model, torch.randn(8, 3, 6, 6, dtype=dtype))
    assert isinstance(carve(model, space, space.uniform(0.5)), Noisy)


def test_leaf_attributes_follow() -> None:
    model, _, space = case("residual_b")
    student = carve(model, space, space.uniform(0.5))
    for module in student.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels // module.groups)
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_features == module.running_mean.shape[0]


def test_wrong_choices_are_named() -> None:
    model, _, space = case("chain")
    good = space.largest()
    with pytest.raises(InputError, match="has 8 units, asked for 9"):
        carve(model, space, Candidate({**good.widths, "0.0": 9}))
    with pytest.raises(InputError, match="unknown name 'nope'"):
        carve(model, space, Candidate({**good.widths, "nope": 1}))
    model, _, space = case("residual_b")
    with pytest.raises(InputError, match="must keep 1"):
        carve(model, space, Candidate(space.largest().widths, frozenset(space.stages["layer1"])))
    with pytest.raises(InputError, match=r"no removable blocks|unknown name"):
        carve(model, space, Candidate(space.largest().widths, frozenset({"fc"})))
    with pytest.raises(InputError, match="ascending"):
        carve(model, space, space.largest(), {g.name: torch.arange(g.units).flip(0) for g in space.groups})
