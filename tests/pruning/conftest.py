"""Small nets with their groups written down by hand, so that these tests do not depend on niwaki.spaces.derive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from niwaki.spaces.types import Group, Slice, Tap


@dataclass(frozen=True)
class HandSpace:
    groups: tuple[Group, ...]

    def group(self, name: str) -> Group:
        return next(g for g in self.groups if g.name == name)


def rows(units: int, span: int = 1) -> Tensor:
    return torch.arange(units * span).reshape(units, span)


def batchnorm(name: str, units: int) -> tuple[Slice, ...]:
    leaves = ("weight", "bias", "running_mean", "running_var")
    return tuple(Slice(f"{name}.{leaf}", 0, "carries", rows(units)) for leaf in leaves)


def taps(units: int, *modules: str) -> tuple[Tap, ...]:
    return tuple(Tap(m, 1, rows(units)) for m in modules)


def group(name: str, units: int, slices: tuple[Slice, ...], modules: tuple[str, ...]) -> Group:
    return Group(name, units, tuple(range(1, units + 1)), slices, taps(units, *modules))


class Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, hidden, 3, padding=1, bias=False), nn.BatchNorm2d(hidden)
        self.conv2, self.bn2 = nn.Conv2d(hidden, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu_()))
        out += x  # in place, as torchvision's blocks do
        return out.relu_()


class ResNet(nn.Module):
    """conv-bn-relu, a residual block, pooling to 2x2, dropout, two linears. 8x8 inputs, 3 classes."""

    def __init__(self, width: int = 6, hidden: int = 5, features: int = 7) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.block = Block(width, hidden)
        self.pool = nn.Sequential(nn.MaxPool2d(4), nn.Flatten(), nn.Dropout(0.5))
        self.fc1, self.fc2 = nn.Linear(width * 4, features), nn.Linear(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.block(self.bn(self.conv(x)).relu_())
        return self.fc2(self.fc1(self.pool(stream)).relu())


def resnet_space(width: int = 6, hidden: int = 5, features: int = 7) -> HandSpace:
    stream = (
        Slice("conv.weight", 0, "produces", rows(width)), *batchnorm("bn", width),
        Slice("block.conv1.weight", 1, "consumes", rows(width)),
        Slice("block.conv2.weight", 0, "produces", rows(width)), *batchnorm("block.bn2", width),
        Slice("fc1.weight", 1, "consumes", rows(width, 4)),
    )
    inner = (
        Slice("block.conv1.weight", 0, "produces", rows(hidden)), *batchnorm("block.bn1", hidden),
        Slice("block.conv2.weight", 1, "consumes", rows(hidden)),
    )
    last = (
        Slice("fc1.weight", 0, "produces", rows(features)), Slice("fc1.bias", 0, "carries", rows(features)),
        Slice("fc2.weight", 1, "consumes", rows(features)),
    )
    return HandSpace((
        group("conv", width, stream, ("conv", "bn", "block.conv2", "block.bn2")),
        group("block.conv1", hidden, inner, ("block.conv1", "block.bn1")),
        group("fc1", features, last, ("fc1",)),
    ))


def trained_looking(model: nn.Module, seed: int = 3) -> nn.Module:
    """Random weights, BatchNorm scales, shifts and statistics, so that nothing is 0 or 1 by accident.

    With the default seed every unit of ResNet is alive on the default batches.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                values = torch.randn(tensor.shape, generator=generator) * (0.3 if tensor.ndim > 1 else 0.5)
                tensor.copy_(values.abs() + 0.5 if name.endswith("running_var") else values)
    return model


def batches(examples: int = 24, size: int = 7, seed: int = 1) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, 2, 8, 8, generator=generator)
    y = torch.randint(3, (examples,), generator=generator)
    return list(zip(x.split(size), y.split(size), strict=True))


def permuted(model: nn.Module, group: Group, order: Tensor) -> dict[str, Tensor]:
    """The state dict of the same function with the units of ``group`` in another order: new unit u = old order[u]."""
    state = {k: v.clone() for k, v in model.state_dict().items()}
    for piece in group.slices:
        old, moved = state[piece.tensor], state[piece.tensor].clone()
        moved.index_copy_(piece.dim, piece.index.flatten(), old.index_select(piece.dim, piece.index[order].flatten()))
        state[piece.tensor] = moved
    return state


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These nets are so small that threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def net() -> nn.Module:
    return trained_looking(ResNet()).train()


@pytest.fixture
def space() -> HandSpace:
    return resnet_space()


@pytest.fixture
def hand() -> Any:
    """The builders above, for tests that need other nets."""
    class Hand:
        ResNet, Block, Space = ResNet, Block, HandSpace
        rows, batchnorm, taps, group = map(staticmethod, (rows, batchnorm, taps, group))
        trained, batches, permuted, resnet_space = map(staticmethod, (trained_looking, batches, permuted, resnet_space))
    return Hand
