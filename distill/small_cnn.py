"""A small residual network for pictures of 8x8 pixels: learns scikit-learn's digits in seconds on one core."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from niwaki.spaces.errors import InputError


class ResidualBlock(nn.Module):
    """conv-BN-ReLU-conv-BN with the input added back: (B, width, H, W) -> the same shape. Removable."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(x + inner)


class SmallCNN(nn.Module):
    """Three stages: each a convolution-BN-ReLU (stride 1, 2, 2) followed by ``blocks`` residual blocks.

    Input (B, channels, H, W), output (B, classes). Widths are ``width`` times 1, 2, 4.

    Example:
        >>> SmallCNN(classes=10)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, classes: int, width: int = 16, blocks: int = 2, channels: int = 1) -> None:
        super().__init__()
        if min(width, blocks, channels) < 1:
            raise InputError(f"teacher.options: width {width}, blocks {blocks}, channels {channels} must be at least 1")
        self.stage1 = _stage(channels, width, 1, blocks)
        self.stage2 = _stage(width, 2 * width, 2, blocks)
        self.stage3 = _stage(2 * width, 4 * width, 2, blocks)
        self.head = nn.Linear(4 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.stage1(x)))
        out: Tensor = self.head(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return out


def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
    entry = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
    return nn.Sequential(entry, *(ResidualBlock(outputs) for _ in range(blocks)))
