"""Steps on images: convolutions, normalisers, activations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.spaces.steps import Step, divisor, kind, layer, plain, width


@kind("image")
def conv1(x: Tensor, n: int) -> Step:
    return layer(nn.Conv2d(x.shape[1], width(n), 1, bias=n % 3 > 0))


@kind("image")
def conv3(x: Tensor, n: int) -> Step:
    return layer(nn.Conv2d(x.shape[1], width(n), 3, padding=1))


@kind("image")
def conv_stride(x: Tensor, n: int) -> Step | None:
    return layer(nn.Conv2d(x.shape[1], width(n), 3, 2, 1)) if min(x.shape[2:]) > 2 else None


@kind("image")
def conv_bn_relu(x: Tensor, n: int) -> Step:
    o = width(n)
    return layer(nn.Sequential(nn.Conv2d(x.shape[1], o, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()))


@kind("image")
def depthwise(x: Tensor, n: int) -> Step:
    c = x.shape[1]
    return layer(nn.Conv2d(c, c, 3, padding=1, groups=c, bias=n % 2 == 0))


@kind("image")
def grouped(x: Tensor, n: int) -> Step:
    g = divisor(x.shape[1], n)
    return layer(nn.Conv2d(x.shape[1], g * (2 + n % 3), 1, groups=g))


@kind("image")
def multiplier(x: Tensor, n: int) -> Step | None:
    c = x.shape[1]
    return layer(nn.Conv2d(c, 2 * c, 1, groups=c)) if c <= 8 else None


@kind("image")
def transposed(x: Tensor, n: int) -> Step | None:
    return layer(nn.ConvTranspose2d(x.shape[1], width(n), 2, 2)) if x[0, 0].numel() <= 36 else None


@kind("image")
def transposed_grouped(x: Tensor, n: int) -> Step:
    g = divisor(x.shape[1], n)
    return layer(nn.ConvTranspose2d(x.shape[1], g * (1 + n % 3), 3, padding=1, groups=g))


@kind("image")
def conv3d(x: Tensor, n: int) -> Step:
    return Step(
        nn.Conv3d(x.shape[1], width(n), (1, 3, 3), padding=(0, 1, 1)), lambda m, x: m(x.unsqueeze(2)).squeeze(2)
    )


@kind("image")
def shared(x: Tensor, n: int) -> Step:
    c = x.shape[1]
    return Step(nn.Conv2d(c, c, 3, padding=1), lambda m, x: m(torch.relu(m(x))))


@kind("image", 2)
def siamese(x: Tensor, y: Tensor, n: int) -> Step | None:
    if x.shape[1] != y.shape[1]:
        return None
    return Step(nn.Conv2d(x.shape[1], width(n), 1), lambda m, x, y: (m(x), m(y)))


@kind("image")
def batch_norm(x: Tensor, n: int) -> Step:
    return layer(nn.BatchNorm2d(x.shape[1], affine=n % 3 > 0))


@kind("image")
def group_norm(x: Tensor, n: int) -> Step:
    c = x.shape[1]
    return layer(nn.GroupNorm(divisor(c, n) if n % 2 else 1, c))


@kind("image")
def instance_norm(x: Tensor, n: int) -> Step | None:
    return layer(nn.InstanceNorm2d(x.shape[1], affine=n % 2 == 0)) if x[0, 0].numel() > 1 else None


@kind("image")
def channels_last(x: Tensor, n: int) -> Step:
    c = x.shape[1]
    inner = nn.Sequential(nn.LayerNorm(c), nn.Linear(c, 2 * c), nn.GELU(), nn.Linear(2 * c, c))
    return Step(inner, lambda m, x: x + m(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


@kind("image")
def activation(x: Tensor, n: int) -> Step:
    kinds = (nn.ReLU, nn.SiLU, nn.Hardswish, nn.GELU, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.Softsign, nn.Mish)
    return layer(kinds[n % len(kinds)]())


@kind("image")
def prelu(x: Tensor, n: int) -> Step:
    return layer(nn.PReLU(x.shape[1] if n % 2 == 0 else 1))


@kind("image")
def dropout(x: Tensor, n: int) -> Step:
    return layer(nn.Dropout2d(0.3) if n % 2 else nn.Dropout(0.3))


@kind("image")
def glu(x: Tensor, n: int) -> Step | None:
    return plain(lambda x: F.glu(x, 1)) if x.shape[1] % 2 == 0 else None


@kind("image")
def softmax_channels(x: Tensor, n: int) -> Step:
    return plain(lambda x: x.softmax(1))
