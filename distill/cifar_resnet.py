"""CIFAR residual networks: He et al. 2015 (arXiv 1512.03385, section 4.2), depth 6n + 2, 16, 32 and 64 channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from niwaki.spaces.errors import InputError, nearest

CIFAR_DEPTHS = (20, 32, 44, 56, 110)


class PaddedShortcut(nn.Module):
    """Option A: every second pixel, and zero channels on either side, so that the shortcut has no parameters.

    (B, c, H, W) -> (B, c + 2 * pad, H / 2, W / 2).
    """

    def __init__(self, pad: int) -> None:
        super().__init__()
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation and a shortcut around them.

    ``shortcut`` is ``A`` (padding, the paper's choice for CIFAR) or ``B`` (1x1 convolution); it only matters where the
    shape changes.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = (
                PaddedShortcut((outputs - inputs) // 2)
                if shortcut == "A"
                else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """Stem, three stages of ``blocks`` blocks (16, 32, 64 channels; strides 1, 2, 2), average pool, linear.

    Input (B, channels, H, W), H and W divisible by 4 (32 in the paper); output (B, classes).

    Example:
        >>> CifarResNet(blocks=3, classes=10)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, blocks: int, classes: int, shortcut: str = "A", channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, 1, blocks, shortcut)
        self.layer2 = _stage(16, 32, 2, blocks, shortcut)
        self.layer3 = _stage(32, 64, 2, blocks, shortcut)
        self.linear = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        out: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return out


def _stage(inputs: int, outputs: int, stride: int, blocks: int, shortcut: str) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs, 1, shortcut) for _ in range(blocks - 1)))


def cifar_resnet(depth: int, classes: int, shortcut: str = "A", channels: int = 3) -> CifarResNet:
    """The network of ``depth`` layers; its keys are those of the weights in circulation (``layer1.0.conv1.weight``).

    Raises:
        InputError: ``shortcut`` is neither ``A`` nor ``B``.

    Example:
        >>> sum(p.numel() for p in cifar_resnet(20, classes=10).parameters())
        269722
    """
    if shortcut not in ("A", "B"):
        raise InputError(f"teacher.options.shortcut: unknown value {shortcut!r}; {nearest(str(shortcut), ('A', 'B'))}")
    return CifarResNet((depth - 2) // 6, classes, shortcut, channels)
