"""Activation peaks: known by hand on tiny nets, and the prediction equal to what a run of the carved model holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

from niwaki.spaces import Candidate, Space, carve, derive
from niwaki.spaces.memory import library_overhead, measured_peak, settle
from niwaki.spaces.source import SourceModule
from tests import torchvision_small
from tests.spaces.programs import Plan, build, plans

IMAGE = torch.zeros(2, 3, 8, 8)


class Run(nn.Module):
    """A forward of its own."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.run = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def residual(self: Any, x: Tensor) -> Tensor:
    x = self.first(x)
    y = self.second(x)
    y += x
    return y


def branches(self: Any, x: Tensor) -> Tensor:
    a, b = self.a(x), self.b(x)
    return torch.cat([a, b], 1)


def views(self: Any, x: Tensor) -> Tensor:
    y = self.first(x)
    return y.permute(0, 2, 3, 1).transpose(1, 2).permute(0, 3, 2, 1)[:, :2].chunk(2, 1)[0].unsqueeze(1).flatten(1)


def held_by_name(self: Any, x: Tensor) -> Tensor:
    y = self.first(x)
    z = F.relu(y)
    z = self.second(z)
    return F.relu(z)  # `y` is of no use since the first relu, but it still has a name


def held_by_call(self: Any, x: Tensor) -> Tensor:
    return self.inner(self.first(x))  # type: ignore[no-any-return]


PIXELS = 8 * 8 * 4  # bytes of one channel
KNOWN: dict[str, tuple[nn.Module, int]] = {
    "chain": (nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 2)), (3 + 4 + 4) * PIXELS),
    "in place": (nn.Sequential(conv(3, 4), nn.ReLU(inplace=True), conv(4, 2)), (3 + 4 + 2) * PIXELS),
    "dropout does nothing": (nn.Sequential(conv(3, 4), nn.Dropout()), (3 + 4) * PIXELS),
    "norm beside its input": (nn.Sequential(conv(3, 4), nn.BatchNorm2d(4)), (3 + 4 + 4) * PIXELS),
    "pooling counts its indices": (nn.Sequential(conv(3, 4), nn.MaxPool2d(2)), (3 + 4 + 1) * PIXELS + 4 * 16 * 8),
    "residual": (Run(residual, first=conv(3, 4), second=conv(4, 4)), (3 + 4 + 4) * PIXELS),
    "branches": (Run(branches, a=conv(3, 5), b=conv(3, 2)), (3 + 5 + 2 + 7) * PIXELS),
    "views": (Run(views, first=conv(3, 4)), (3 + 4) * PIXELS),
    "held by a name": (Run(held_by_name, first=conv(3, 4), second=conv(4, 4)), (3 + 4 + 4 + 4) * PIXELS),
    "held by a call": (
        Run(held_by_call, first=conv(3, 9), inner=nn.Sequential(conv(9, 1), conv(1, 1))), (3 + 9 + 1 + 1) * PIXELS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_known_by_hand(name: str) -> None:
    model, expected = KNOWN[name]
    model.eval()
    assert measured_peak(model, IMAGE) == expected
    space = derive(model, IMAGE)
    assert space.memory([space.largest()]).tolist() == [expected]
    assert space.cost(space.largest()).memory_bytes == expected


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4)).train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    measured_peak(model, IMAGE)
    library_overhead(model, IMAGE)
    assert model.training
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_a_batch_counts_as_one_example() -> None:
    model = nn.Linear(8, 4)
    assert measured_peak(model, torch.zeros(64, 8)) == measured_peak(model, torch.zeros(1, 8)) == 4 * 12


def test_every_type_has_its_own_size() -> None:
    model = nn.Embedding(10, 6)
    assert measured_peak(model, torch.zeros(2, 5, dtype=torch.int64)) == 5 * 8 + 5 * 6 * 4
    assert measured_peak(nn.ReLU().double(), torch.zeros(2, 5).double()) == 5 * 8 * 2


def test_constants_do_not_count() -> None:
    model = Run(lambda self, x: x + self.shift)
    model.shift = torch.ones(1000)[:5]
    assert measured_peak(model, torch.zeros(2, 5)) == 2 * 5 * 4


def test_scratch_memory_is_told_apart() -> None:
    model = nn.ConvTranspose2d(4, 4, 3)  # by matrix products: every patch is written out
    x = torch.zeros(1, 4, 16, 16)
    assert library_overhead(model, x) > 0
    assert library_overhead(nn.Sequential(nn.ReLU(), nn.ReLU()), x) == 0


def students(model: nn.Module, space: Space, number: int, seed: int = 0) -> list[Candidate]:
    """The largest, the smallest, and random ones, every other one at full depth."""
    generator = torch.Generator().manual_seed(seed)
    found = [space.largest(), space.smallest()]
    for i in range(number):
        chosen = list(zip(space.variables, space.encode(space.sample(generator)), strict=True))
        found.append(space.decode([len(v.choices) - 1 if i % 2 and v.kind == "depth" else k for v, k in chosen]))
    return found


def compare(model: nn.Module, example: Tensor, number: int = 3) -> set[tuple[bool, bool]]:
    """Predicted == measured; which kinds of modules were met: (generated source, with skipped blocks)."""
    space, met = derive(model, example), set()
    settle(model, space)
    candidates = students(model, space, number)
    for candidate, predicted in zip(candidates, space.memory(candidates).tolist(), strict=True):
        student = carve(model, space, candidate)
        assert measured_peak(student, example) == predicted, candidate
        met.add((isinstance(student, SourceModule), bool(candidate.skipped)))
    return met


def resnet(block: type[Any] = torchvision.models.resnet.BasicBlock) -> nn.Module:
    net: nn.Module = torchvision.models.ResNet(block, [2, 1, 1, 1], num_classes=5)
    return net.eval()


INVERTED = [[1, 8, 1, 1], [4, 8, 3, 2]]
SMALL: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "mobilenet": (lambda: torchvision.models.MobileNetV2(inverted_residual_setting=INVERTED, num_classes=5), 32),
    "densenet": (lambda: torchvision.models.DenseNet(8, (2, 2), 8), 32),
    "convnext": (torchvision_small.convnext, 32),
    "transformer": (torchvision_small.vit, 16),
    "windows": (torchvision_small.swin, 16),
}


@pytest.mark.parametrize("name", SMALL)
def test_equal_to_a_run_of_the_carved_model(name: str) -> None:
    make, side = SMALL[name]
    compare(make().eval(), torch.zeros(2, 3, side, side))


def test_both_kinds_of_modules_with_and_without_blocks() -> None:
    """Blocks with a projection can only go from generated source, whose relu then makes a tensor of its own."""
    model, example = resnet(), torch.zeros(2, 3, 32, 32)
    space = derive(model, example)
    settle(model, space)
    for skipped in ({"layer1.1"}, {"layer2.0"}, {"layer1.1", "layer2.0", "layer4.0"}):
        candidate = Candidate({n: w[0] for n, w in space.widths.items()}, frozenset(skipped))
        student = carve(model, space, candidate)
        assert isinstance(student, SourceModule) == ("layer2.0" in skipped)
        assert measured_peak(student, example) == space.memory([candidate])[0], skipped


def test_source_is_never_worse_than_the_class() -> None:
    """Names, arguments and lists hold tensors in a forward; generated code gives them up after their last use."""
    for model in (torchvision_small.swin().eval(), torchvision.models.DenseNet(8, (2, 2), 8).eval()):
        example = torch.zeros(2, 3, 32, 32)
        space = derive(model, example)
        candidates = students(model, space, 20)
        assert space.peaks is not None
        assert space.peaks.own is not None
        chosen = space.select(candidates)
        assert (space.peaks.source.peaks(chosen) <= space.peaks.own.peaks(chosen)).all()


def test_before_it_is_settled_the_figure_is_an_upper_bound() -> None:
    model, example = torchvision_small.swin().eval(), torch.zeros(2, 3, 16, 16)
    space = derive(model, example)
    candidates = students(model, space, 6)
    before = space.memory(candidates)
    settle(model, space)
    assert (space.memory(candidates) <= before).all()
    assert (space.memory(candidates) < before).any()


def test_many_at_once_are_each_alone() -> None:
    model = resnet()
    space = derive(model, torch.zeros(2, 3, 32, 32))
    rng = np.random.default_rng(0)
    matrix = np.stack([rng.integers(0, len(v.choices), 1500) for v in space.variables], axis=1)
    together = space.memory(matrix)
    assert together.shape == (1500,)
    assert together.dtype == np.int64
    for i in (0, 511, 512, 1499):
        assert space.memory(matrix[i : i + 1]).tolist() == [together[i]]
        assert space.memory([space.decode(matrix[i].tolist())]).tolist() == [together[i]]
    assert space.memory(matrix[:0]).shape == (0,)


def test_a_model_on_another_device_has_the_same_figure() -> None:
    """Lifetimes are followed on fake tensors, wherever the weights are."""
    model = resnet()
    here = derive(model, torch.zeros(2, 3, 32, 32))
    there = derive(resnet().to("meta"), torch.zeros(2, 3, 32, 32, device="meta"))
    candidates = students(model, here, 4)
    assert there.memory(candidates).tolist() == here.memory(candidates).tolist()


def test_a_forward_that_keeps_a_tensor_keeps_no_fake_one() -> None:
    def keeping(self: Any, x: Tensor) -> Tensor:
        if not torch.compiler.is_exporting() and not hasattr(self, "scale"):
            self.scale = torch.full((4,), 2.0)
        return self.first(x)  # type: ignore[no-any-return]

    model = Run(keeping, first=nn.Linear(8, 4))
    derive(model, torch.zeros(2, 8))
    assert not hasattr(model, "scale")


class Peeks(nn.Module):
    """Looks at a number: torch.export takes it as a constant of the module, a fake run cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_exporting() and float(x.sum()) > 1e9:
            raise ValueError("too large")
        y = F.relu(self.first(x))
        z: Tensor = self.second(y)
        return z


def test_code_that_looks_at_data_counts_as_generated_source() -> None:
    model = Peeks()
    space = derive(model, torch.zeros(2, 8))
    assert space.peaks is not None
    assert space.peaks.own is None
    assert space.memory([space.largest()]).tolist() == [4 * (8 + 16 + 16)]


@given(plans(steps=5))
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_programs(plan: Plan) -> None:
    """The teacher: equal. Smaller candidates: an upper bound, equal where every tensor's size could be followed.

    What may be less in truth: a copy that a size of one makes unnecessary, attention whose heads became unequal, and
    recurrent layers, which keep their secrets.
    """
    net, x = build(plan)
    space = derive(net, x)
    if space.peaks is None:
        return
    settle(net, space)
    candidates = students(net, space, 2)
    for i, (candidate, predicted) in enumerate(zip(candidates, space.memory(candidates).tolist(), strict=True)):
        measured = measured_peak(carve(net, space, candidate), x)
        assert measured == predicted if i == 0 else measured <= predicted
