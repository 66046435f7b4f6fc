"""Steps on vectors (B, D)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.spaces.steps import Held, Step, divisor, kind, layer, plain, width


@kind("vector")
def dense(x: Tensor, n: int) -> Step:
    return layer(nn.Sequential(nn.Linear(x.shape[1], width(n)), nn.ReLU()))


@kind("vector")
def batch_norm1(x: Tensor, n: int) -> Step:
    return layer(nn.BatchNorm1d(x.shape[1]))


@kind("vector")
def tied(x: Tensor, n: int) -> Step:
    """An autoencoder whose decoder is the encoder's transpose."""
    return Step(nn.Linear(x.shape[1], width(n), bias=False), lambda m, x: F.linear(torch.tanh(m(x)), m.weight.t()))


@kind("vector")
def normalised(x: Tensor, n: int) -> Step:
    return plain(lambda x: F.normalize(x, dim=1))


@kind("vector")
def maxout(x: Tensor, n: int) -> Step:
    o = width(n)
    return Step(nn.Linear(x.shape[1], 2 * o), lambda m, x: m(x).view(-1, o, 2).amax(2))


@kind("vector", 2)
def outer(x: Tensor, y: Tensor, n: int) -> Step | None:
    if x.shape[1] * y.shape[1] > 60:
        return None
    if n % 2:
        return plain(lambda x, y: torch.einsum("bi,bj->bij", x, y).flatten(1))
    return plain(lambda x, y: (x.unsqueeze(2) @ y.unsqueeze(1)).flatten(1))


@kind("vector", 2)
def cat_vectors(x: Tensor, y: Tensor, n: int) -> Step | None:
    return plain(lambda x, y: torch.cat((x, y), -1)) if x.shape[1] + y.shape[1] <= 30 else None


@kind("vector", 2)
def dot(x: Tensor, y: Tensor, n: int) -> Step | None:
    return plain(lambda x, y: x * (x * y).sum(1, keepdim=True)) if x.shape == y.shape else None


@kind("vector")
def low_rank(x: Tensor, n: int) -> Step:
    d, o = x.shape[1], width(n)
    held = Held(a=torch.randn(d, o) / 3, b=torch.randn(o, d) / 3, bias=torch.randn(d))
    return Step(held, lambda m, x: torch.addmm(m.bias, x @ m.a, m.b))


@kind("vector")
def experts(x: Tensor, n: int) -> Step:
    """Three experts' weights in one tensor, mixed by a router."""
    d, o = x.shape[1], width(n)

    def run(m: nn.Module, x: Tensor) -> Tensor:
        y = torch.einsum("bd,edo->beo", x, m[1].weight)
        return (y * m[0](x).softmax(-1).unsqueeze(-1)).sum(1)

    return Step(nn.ModuleList([nn.Linear(d, 3), Held(weight=torch.randn(3, d, o) / 3)]), run)


@kind("vector")
def as_sequence(x: Tensor, n: int) -> Step:
    d = divisor(x.shape[1], n)
    return plain(lambda x: x.view(x.shape[0], x.shape[1] // d, d))


@kind("vector")
def vector_to_image(x: Tensor, n: int) -> Step:
    return Step(nn.Linear(x.shape[1], 4 * width(n)), lambda m, x: m(x).view(x.shape[0], -1, 2, 2))


@kind("vector")
def gathered(x: Tensor, n: int) -> Step:
    return plain(lambda x: x.gather(1, x.argsort(1)))


@kind("vector")
def maxout_pool(x: Tensor, n: int) -> Step | None:
    """Pooling in a tensor without channels runs over the units."""
    return plain(lambda x: F.max_pool1d(x, 2)) if x.shape[1] > 3 else None


@kind("vector", 2)
def bilinear(x: Tensor, y: Tensor, n: int) -> Step | None:
    if x.shape[1] * y.shape[1] > 60:
        return None
    return Step(nn.Bilinear(x.shape[1], y.shape[1], width(n)), lambda m, x, y: m(x, y))


@kind("vector")
def contracted(x: Tensor, n: int) -> Step:
    return Step(
        Held(weight=torch.randn(x.shape[1], width(n)) / 3), lambda m, x: torch.tensordot(x, m.weight, dims=([1], [0]))
    )
