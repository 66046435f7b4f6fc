"""A detector in small: torch.export refuses the whole, its parts are cut, the rest stays and still runs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from niwaki.spaces import Candidate, InputError, carve, count, derive, mask
from niwaki.spaces.check import check
from niwaki.spaces.parts import Parts
from tests.spaces.reference import draw, relative
from tests.zoo import Residual, conv_bn, randomise


class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.top = nn.Sequential(conv_bn(3, 8), conv_bn(8, 12)), nn.Conv2d(12, 16, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.body(x)
        return {"fine": self.top(y), "coarse": self.top(F.max_pool2d(y, 2))}


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.score = nn.Conv2d(16, 10, 3, padding=1), nn.Conv2d(10, 2, 1)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return [self.score(F.relu(self.conv(f))).flatten(1) for f in features]


class Boxes(nn.Module):
    """Runs on as many proposals as there are."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(16, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.inner(x)))


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head, self.boxes = Pyramid(), Head(), Boxes()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.backbone(x)
        scores = torch.cat(self.head(list(features.values())), 1)
        best = int(scores.argmax(1)[0].item()) % 4 + 3  # data decides: torch.export refuses this
        proposals = features["fine"].flatten(2).transpose(1, 2).reshape(-1, 16)[: 2 * best + 1]
        return {"scores": scores, "boxes": self.boxes(proposals)}


@pytest.fixture
def detector() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return randomise(Detector()).double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)


def test_parts_are_found_and_the_rest_is_named(detector: tuple[nn.Module, Tensor]) -> None:
    model, x = detector
    space = derive(model, x)
    assert [p.path for p in space.plan.parts] == ["backbone", "head"]
    assert {g.name for g in space.groups} == {"backbone.body.0.0", "backbone.body.1.0", "head.conv"}
    reason = next(f.reason for f in space.fixed if f.name == "all but backbone, head")
    assert "torch.export cannot trace it" in reason
    assert reason.endswith("What these submodules take and return stays as it is")


def test_carved_detector(detector: tuple[nn.Module, Tensor]) -> None:
    model, x = detector
    space = derive(model, x)
    assert all(p.held for p in check(model, space, seeds=2)), check(model, space)
    candidate, kept = draw(space, 0)
    student = carve(model, space, candidate, kept)
    assert type(student) is Detector
    parts = Parts(student, space.plan.parts).eval()
    with torch.no_grad():
        reference = mask(model, space, candidate, kept)(*space.plan.example)
        assert all(relative(a, b) < 1e-9 for a, b in zip(parts(*space.plan.example), reference, strict=True))
        assert student(x)["boxes"].shape[1] == 4
        assert torch.equal(carve(model, space, space.largest())(x)["scores"], model(x)["scores"])
    assert space.cost(candidate).params == sum(p.numel() for p in student.parameters())
    assert space.cost(candidate).macs == count(parts, space.plan.example).macs
    assert student.boxes.inner.weight is not model.boxes.inner.weight


class Counted(nn.Module):
    """A residual body, one block of which projects, and an end that data decide on."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Residual("B", depth=2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return y[: int(y.argmax().item()) % 2 + 1]


def test_only_blocks_that_the_class_can_do_without_are_offered() -> None:
    torch.manual_seed(0)
    model, x = randomise(Counted()).double(), torch.randn(2, 3, 8, 8, dtype=torch.float64)
    space = derive(model, x)
    assert {b.name for b in space.blocks} == {"body.layer1.0", "body.layer1.1", "body.layer2.1"}
    assert all(p.held for p in check(model, space, seeds=3)), check(model, space, seeds=3)


class Loops(nn.Module):
    """Nothing in it runs once, on a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(int(x.abs().sum().item()) % 3 + 2):
            x = self.layer(x)
        return x


def test_what_has_no_parts_is_refused() -> None:
    with pytest.raises(InputError, match=r"model Loops: torch\.export cannot trace it"):
        derive(Loops(), torch.ones(2, 4))


class Cuts(nn.Module):
    """A part whose Python repeats a width that may be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).reshape(-1, 8))


class Stubborn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.part = Cuts()

    def forward(self, x: Tensor) -> Tensor:
        y = self.part(x)
        return y[: int(y.argmax().item()) % 2 + 1]


def test_parts_that_bake_sizes_in_are_refused_with_a_way_out() -> None:
    model, x = Stubborn(), torch.randn(2, 4)
    space = derive(model, x)
    with pytest.raises(InputError, match=r"takes only its parts \['part'\]"):
        carve(model, space, Candidate({"part.a": 4}))
