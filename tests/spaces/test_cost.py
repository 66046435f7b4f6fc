"""Counts against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from niwaki.spaces import Cost, Sparsity, count, derive
from tests.zoo import SMALL, build


def by_formula(model: nn.Module, x: torch.Tensor) -> int:
    """MACs of one example from layers' own attributes and the shapes they really produce."""
    total = 0

    def seen(module: nn.Module, args: tuple[torch.Tensor, ...], out: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.modules.conv._ConvTransposeNd):
            positions = args[0][0, 0].numel()
            total += positions * module.in_channels * module.out_channels // module.groups * kernel(module)
        elif isinstance(module, nn.modules.conv._ConvNd):
            total += out[0, 0].numel() * module.out_channels * (module.in_channels // module.groups) * kernel(module)
        elif isinstance(module, nn.Linear):
            total += out[0].numel() * module.in_features

    handles = [m.register_forward_hook(seen) for m in model.modules()]
    model.eval()(x)
    for h in handles:
        h.remove()
    return total


def kernel(module: nn.modules.conv._ConvNd) -> int:
    return int(torch.tensor(module.kernel_size).prod())


@pytest.mark.parametrize("name", list(SMALL))
def test_macs_by_formula(name: str) -> None:
    model, x = build(name)
    assert count(model, x).macs == by_formula(model, x)


@pytest.mark.parametrize(("depth", "macs"), [(20, 40_551_040), (56, 125_485_696)])
def test_cifar_resnets_with_option_a(depth: int, macs: int) -> None:
    """3x3 convolutions and the classifier, by the closed form of the architecture."""
    from niwaki.distill import build as teacher

    n = (depth - 2) // 6
    stage = [9 * c * c * s * s for c, s in ((16, 32), (32, 16), (64, 8))]
    expected = 9 * 3 * 16 * 1024 + sum(2 * n * m for m in stage) - stage[1] // 2 - stage[2] // 2 + 640
    assert expected == macs
    assert count(teacher(f"cifar_resnet{depth}", 10, {"shortcut": "A"}), torch.zeros(1, 3, 32, 32)).macs == macs


def test_bytes_are_those_of_the_state_dict() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert count(model, torch.zeros(1, 3, 5, 5)) == Cost(9 * 108, 108 + 4 + 8, 4 * (112 + 16) + 8)
    assert count(model.half(), torch.zeros(1, 3, 5, 5).half()).bytes == 2 * (112 + 16) + 8


@pytest.mark.parametrize(
    ("token", "numel", "fan_in", "kept"),
    [("0.5", 10, 5, 5), ("0.9", 101, 101, 10), ("2:4", 40, 10, 24), ("1:4", 16, 8, 4), ("dense", 7, 7, 7)],
)
def test_sparsity_counts(token: str, numel: int, fan_in: int, kept: int) -> None:
    s = Sparsity.parse(token)
    assert s.kept(numel, fan_in) == kept
    stored = numel * 4 if token == "dense" else kept * 4 + -(-numel // 8)
    assert s.stored_bytes(numel, fan_in, 4) == stored


@pytest.mark.parametrize("token", ["1.0", "-0.1", "4:4", "0:4", "x", "", "2:4:8", "nan"])
def test_sparsity_refuses(token: str) -> None:
    with pytest.raises(ValueError, match="expected 'dense'"):
        Sparsity.parse(token)


def test_layer_rows_add_up() -> None:
    model, x = build("inverted")
    space = derive(model, x)
    many = [space.smallest(), space.largest(), space.uniform(0.5)]
    rows = space.layers(many)
    assert sum(r.macs * r.alive for r in rows).tolist() == space.costs(many).macs.tolist()  # type: ignore[union-attr]
    stem = next(r for r in rows if r.op == "conv")
    assert stem.inputs.tolist() == [3, 3, 3]
    assert stem.outputs.tolist() == [c.widths["stem.0"] for c in many]
    assert (stem.kernel, stem.stride, stem.positions.tolist()) == (9, 2, [16, 16, 16])
