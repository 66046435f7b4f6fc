"""MACs of TAS's CIFAR ResNets (Dong & Yang 2019) by closed form: the whole nets, and searched shapes of them."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from niwaki.spaces import Candidate, Space, SpaceOptions, carve, count, derive

WIDTHS = (16, 32, 64)


class Block(nn.Module):
    """TAS's basic block: where the resolution halves, the shortcut is AvgPool2 and a 1x1 convolution without BN."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv_a = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn_a = nn.BatchNorm2d(outputs)
        self.conv_b = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn_b = nn.BatchNorm2d(outputs)
        down = stride == 2
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1, bias=False)) if down else None

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.shortcut is None else self.shortcut(x)
        return F.relu(skip + self.bn_b(self.conv_b(F.relu(self.bn_a(self.conv_a(x))))))


class TasResNet(nn.Module):
    def __init__(self, n: int, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        before = (16, 16, 32)
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(before[s] if b == 0 else c, c, 2 if s and b == 0 else 1) for b in range(n)))
            for s, c in enumerate(WIDTHS)
        )
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.head(x.mean((2, 3)))


def closed_form(streams: tuple[int, ...], inner: list[list[int]], classes: int = 10) -> int:
    """``streams``: channels of the three residual streams. ``inner``: stage -> channels inside the blocks that stay."""
    total = 32 * 32 * 9 * 3 * streams[0]
    for s, (c, blocks) in enumerate(zip(streams, inner, strict=True)):
        side = 32 // 2**s
        if s:
            total += side * side * streams[s - 1] * c  # the 1x1 shortcut, after pooling
        for b, width in enumerate(blocks):
            entering = streams[s - 1] if s and b == 0 else c
            total += side * side * 9 * width * (entering + c)
    return total + streams[-1] * classes


@cache
def space_of(n: int) -> tuple[nn.Module, Space]:
    model = TasResNet(n)
    return model, derive(model, torch.zeros(2, 3, 32, 32), SpaceOptions(step=1))


@pytest.mark.parametrize(("n", "published"), [(3, 40.81), (5, 69.12), (9, 125.75), (18, 253.15)])
def test_the_whole_nets_cost_what_was_published(n: int, published: float) -> None:
    macs = count(TasResNet(n), torch.zeros(2, 3, 32, 32)).macs
    assert macs == closed_form(WIDTHS, [[c] * n for c in WIDTHS])
    assert round(macs / 1e6, 2) == published


@pytest.mark.parametrize(("n", "seed"), [(3, 0), (3, 1), (3, 2), (5, 3)])
def test_searched_shapes_cost_what_the_closed_form_says(n: int, seed: int) -> None:
    """Widths of TAS's choices for each layer, the first k blocks of each stage: dropped blocks count for nothing, and
    the next stage reads the width of the last block that stays."""
    model, space = space_of(n)
    row = [int(torch.randint(len(v.choices), (), generator=torch.Generator().manual_seed(97 * seed + i)))
           for i, v in enumerate(space.variables)]  # fmt: skip
    candidate = space.decode(row)
    streams = tuple(candidate.widths[name] for name in ("stem.0", "stages.1.0.conv_b", "stages.2.0.conv_b"))
    inner = [
        [candidate.widths[f"stages.{s}.{b}.conv_a"] for b in range(n) if f"stages.{s}.{b}" not in candidate.skipped]
        for s in range(3)
    ]
    assert space.cost(candidate).macs == closed_form(streams, inner)
    if n == 3:
        assert count(carve(model, space, candidate), torch.zeros(2, 3, 32, 32)).macs == closed_form(streams, inner)


def test_choices_are_those_of_tas() -> None:
    space = space_of(3)[1]
    assert {space.widths[n] for n in ("stem.0", "stages.0.1.conv_a")} == {(4, 6, 8, 9, 11, 12, 14, 16)}
    assert space.widths["stages.2.2.conv_a"] == (19, 25, 32, 38, 44, 51, 57, 64)


def test_a_dropped_block_takes_its_width_along() -> None:
    """The slip of the published code: its estimate keeps the dropped block's width as the next stage's input."""
    _, space = space_of(3)
    kept = space.canonical(Candidate({**space.largest().widths, "stages.0.2.conv_a": 4}, frozenset({"stages.0.2"})))
    assert kept.widths["stages.0.2.conv_a"] == 16
    assert space.cost(kept).macs == closed_form(WIDTHS, [[16] * 2, [32] * 3, [64] * 3])
