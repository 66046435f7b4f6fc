from __future__ import annotations

import pytest
import torch
from torch import nn

from niwaki.distill.cifar_resnet import CIFAR_DEPTHS, PaddedShortcut, cifar_resnet
from niwaki.spaces.errors import InputError


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)])
def test_parameters_are_those_of_the_paper(depth: int, millions: float) -> None:
    """Table 6 of He et al. 2015."""
    model = cifar_resnet(depth, 10)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.035)
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in model.modules()) == depth
    assert depth in CIFAR_DEPTHS


def test_option_a_takes_every_second_pixel_and_pads_on_both_sides() -> None:
    x = torch.randn(2, 4, 6, 6)
    out = PaddedShortcut(3)(x)
    assert out.shape == (2, 10, 3, 3)
    assert torch.equal(out[:, 3:7], x[:, :, ::2, ::2])
    assert not out[:, :3].any()
    assert not out[:, 7:].any()


def test_keys_are_those_of_the_weights_in_circulation() -> None:
    keys = set(cifar_resnet(20, 10).state_dict())
    assert {"conv1.weight", "bn1.weight", "layer2.0.conv1.weight", "layer3.2.bn2.running_var", "linear.bias"} <= keys
    assert not any("shortcut" in k for k in keys)
    assert "layer2.0.shortcut.0.weight" in cifar_resnet(20, 10, "B").state_dict()


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_it_answers_and_learns(shortcut: str) -> None:
    model = cifar_resnet(20, 7, shortcut, channels=1)
    out = model(torch.randn(2, 1, 16, 16))
    assert out.shape == (2, 7)
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_unknown_shortcut() -> None:
    with pytest.raises(InputError, match=r"teacher.options.shortcut: unknown value 'C'.*valid: A, B"):
        cifar_resnet(20, 10, "C")
