"""Steps on images: additions and products of two values, residual branches, gates."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.spaces.steps import Held, Step, kind, plain, width


@kind("image", 2)
def add(x: Tensor, y: Tensor, n: int) -> Step | None:
    return plain(lambda x, y: x + y) if x.shape == y.shape else None


@kind("image", 2)
def multiply(x: Tensor, y: Tensor, n: int) -> Step | None:
    return plain(lambda x, y: torch.sigmoid(x) * y) if x.shape == y.shape else None


@kind("image")
def residual(x: Tensor, n: int) -> Step:
    c, o = x.shape[1], width(n)
    inner = nn.Sequential(nn.Conv2d(c, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(), nn.Conv2d(o, c, 1))
    return Step(inner, lambda m, x: torch.relu(x + m(x)))


@kind("image")
def padded_shortcut(x: Tensor, n: int) -> Step | None:
    c = x.shape[1]
    if c > 10 or min(x.shape[2:]) < 3:
        return None
    a, b = 1 + n % 3, n % 2
    return Step(nn.Conv2d(c, c + a + b, 3, 2, 1), lambda m, x: m(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, a, b)))


@kind("image")
def gate(x: Tensor, n: int) -> Step:
    c = x.shape[1]
    inner = nn.Sequential(nn.Linear(c, width(n)), nn.ReLU(), nn.Linear(width(n), c), nn.Sigmoid())
    return Step(inner, lambda m, x: x * m(x.mean((2, 3)))[:, :, None, None])


@kind("image")
def gate_conv1d(x: Tensor, n: int) -> Step:
    """Efficient channel attention: a convolution along the channels."""
    inner = nn.Conv1d(1, 1, 3, padding=1)
    return Step(
        inner,
        lambda m, x: x * torch.sigmoid(m(x.mean((2, 3)).unsqueeze(1)).squeeze(1))[..., None, None],
    )


@kind("image")
def scale(x: Tensor, n: int) -> Step:
    shape = ((x.shape[1], 1, 1), (1, x.shape[1], 1, 1), (1, 1, 1))[n % 3]
    return Step(Held(gamma=torch.rand(shape) + 0.5), lambda m, x: x * m.gamma)


@kind("image")
def shift(x: Tensor, n: int) -> Step:
    return Step(Held(_mean=torch.rand(x.shape[1], 1, 1)), lambda m, x: x - m.mean)


@kind("image")
def mean_gate(x: Tensor, n: int) -> Step:
    return plain(lambda x: x * torch.sigmoid(x.mean(1, keepdim=True)))


@kind("image")
def spatial_gate(x: Tensor, n: int) -> Step:
    """CBAM: a map made of the mean and the maximum over channels."""
    return Step(
        nn.Conv2d(2, 1, 3, padding=1),
        lambda m, x: x * torch.sigmoid(m(torch.cat([x.mean(1, True), x.amax(1, True)], 1))),
    )
