"""Steps on images that move between places and channels, or leave the plane."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.spaces.steps import Held, Step, kind, layer, plain, width


@kind("image")
def pool(x: Tensor, n: int) -> Step | None:
    if min(x.shape[2:]) < 4:
        return None
    return layer((nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(2))[n % 4])


@kind("image")
def resize(x: Tensor, n: int) -> Step | None:
    if x[0, 0].numel() > 16:
        return None
    mode = ("nearest", "bilinear")[n % 2]
    return plain(lambda x: F.interpolate(x, scale_factor=2.0, mode=mode))


@kind("image")
def pixel_shuffle(x: Tensor, n: int) -> Step | None:
    if x.shape[1] % 4 or x[0, 0].numel() > 16:
        return None
    return plain(lambda x: F.pixel_shuffle(x, 2))


@kind("image")
def pixel_unshuffle(x: Tensor, n: int) -> Step | None:
    if x.shape[1] > 5 or x.shape[2] % 2 or x.shape[3] % 2:
        return None
    return plain(lambda x: F.pixel_unshuffle(x, 2))


@kind("image")
def patch_merging(x: Tensor, n: int) -> Step | None:
    """Swin: four strided views side by side, normalised, reduced."""
    c = x.shape[1]
    if c > 8 or x.shape[2] % 2 or x.shape[3] % 2:
        return None

    def run(m: nn.Module, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return m(torch.cat(parts, -1)).permute(0, 3, 1, 2)

    return Step(nn.Sequential(nn.LayerNorm(4 * c), nn.Linear(4 * c, width(n))), run)


@kind("image")
def space_pad(x: Tensor, n: int) -> Step | None:
    if max(x.shape[2:]) > 7:
        return None
    return (
        plain(lambda x: F.pad(x, (1, 0, 0, 1), mode=("constant", "reflect")[n % 2])) if min(x.shape[2:]) > 1 else None
    )


@kind("image")
def roll_space(x: Tensor, n: int) -> Step:
    return plain(lambda x: torch.roll(x, (1, -1), (2, 3)))


@kind("image")
def crop(x: Tensor, n: int) -> Step | None:
    return plain(lambda x: x[:, :, 1:, : x.shape[3] - 1]) if min(x.shape[2:]) > 2 else None


@kind("image")
def windows(x: Tensor, n: int) -> Step | None:
    """Window partition, a linear per position and back (Swin)."""
    c, h, w = x.shape[1:]
    if h % 2 or w % 2:
        return None

    def run(m: nn.Module, x: Tensor) -> Tensor:
        y = x.permute(0, 2, 3, 1).reshape(-1, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        y = m(y).reshape(-1, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, h, w, c)
        return y.permute(0, 3, 1, 2)

    return Step(nn.Linear(c, c), run)


@kind("image")
def stacked(x: Tensor, n: int) -> Step:
    """Selective kernels: two branches stacked and mixed by weights over the branches."""
    c = x.shape[1]

    def run(m: nn.Module, x: Tensor) -> Tensor:
        s = torch.stack([m[0](x), m[1](x)], 1)
        a = m[2](s.sum(1).mean((2, 3))).view(-1, 2, c).softmax(1)
        return (s * a[..., None, None]).sum(1)

    return Step(nn.ModuleList([nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 3, padding=1), nn.Linear(c, 2 * c)]), run)


@kind("image")
def unbound(x: Tensor, n: int) -> Step | None:
    """Channels seen as pairs, taken apart and put together the other way round."""
    if x.shape[1] % 2:
        return None

    def run(x: Tensor) -> Tensor:
        a, b = x.unflatten(1, (2, x.shape[1] // 2)).unbind(1)
        return torch.stack([b, torch.relu(a)], 2).flatten(1, 2)

    return plain(run)


@kind("image")
def mixed(x: Tensor, n: int) -> Step:
    """A 1x1 convolution written as einsum."""
    weight = torch.randn(width(n), x.shape[1]) / 3
    return Step(Held(weight=weight), lambda m, x: torch.einsum("bchw,oc->bohw", x, m.weight))


@kind("image")
def weight_standardised(x: Tensor, n: int) -> Step:
    def run(m: nn.Module, x: Tensor) -> Tensor:
        w = m.weight - m.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, w, m.bias)

    return Step(nn.Conv2d(x.shape[1], width(n), 1), run)


@kind("image")
def gram(x: Tensor, n: int) -> Step:
    """Channel attention (XCiT): channels meet channels."""
    c = x.shape[1]

    def run(m: nn.Module, x: Tensor) -> Tensor:
        q, k = m[0](x).flatten(2), m[1](x).flatten(2)
        return ((q @ k.transpose(1, 2)).softmax(-1) @ x.flatten(2)).view(-1, width(n), *x.shape[2:])

    return Step(nn.ModuleList([nn.Conv2d(c, width(n), 1), nn.Conv2d(c, c, 1)]), run)


@kind("image")
def flatten_linear(x: Tensor, n: int) -> Step | None:
    return layer(nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), width(n)))) if x[0].numel() <= 300 else None


@kind("image")
def to_sequence(x: Tensor, n: int) -> Step:
    return plain(lambda x: x.flatten(2).transpose(1, 2))
