"""Steps on images that put channels beside each other, take them apart and reorder them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.spaces.steps import Step, divisor, kind, plain


@kind("image", 2)
def cat(x: Tensor, y: Tensor, n: int) -> Step | None:
    if x.shape[2:] != y.shape[2:] or x.shape[1] + y.shape[1] > 20:
        return None
    return plain(lambda x, y: torch.cat([x, y], 1))


@kind("image")
def cat_zeros(x: Tensor, n: int) -> Step | None:
    if x.shape[1] > 12:
        return None
    return plain(lambda x: torch.cat([x, torch.zeros_like(x[:, :2])], 1))


@kind("image")
def swap_chunks(x: Tensor, n: int) -> Step:
    k = 2 + n % 2
    return plain(lambda x: torch.cat(x.chunk(k, 1)[::-1], 1))


@kind("image")
def split_uneven(x: Tensor, n: int) -> Step | None:
    c = x.shape[1]
    if c < 4:
        return None
    k = 1 + n % (c - 2)
    return plain(lambda x: tuple(torch.split(x, [k, c - k], 1)))


@kind("image")
def chunk_products(x: Tensor, n: int) -> Step | None:
    if x.shape[1] % 2:
        return None
    return plain(lambda x: x.chunk(2, 1)[0] * torch.sigmoid(x.chunk(2, 1)[1]))


@kind("image")
def slice_channels(x: Tensor, n: int) -> Step | None:
    c = x.shape[1]
    lo, hi = n % 3, c - n % 2
    return plain(lambda x: x[:, lo:hi]) if hi - lo > 1 else None


@kind("image")
def slice_added(x: Tensor, n: int) -> Step | None:
    """Part of the channels is changed, and written beside the rest (partial convolution)."""
    c = x.shape[1]
    k = max(1, c // (2 + n % 2))
    return Step(nn.Conv2d(k, k, 3, padding=1), lambda m, x: torch.cat([m(x[:, :k]), x[:, k:]], 1)) if c > 2 else None


@kind("image")
def pad_channels(x: Tensor, n: int) -> Step | None:
    if x.shape[1] > 12:
        return None
    return plain(lambda x: F.pad(x, (0, 0, 0, 0, n % 3, 1 + n % 2)))


@kind("image")
def shift_channels(x: Tensor, n: int) -> Step:
    """Every channel beside the one before it."""
    k = 1 + n % 2
    return plain(lambda x: x + F.pad(x, (0, 0, 0, 0, k, 0))[:, : x.shape[1]])


@kind("image")
def cat_empty(x: Tensor, n: int) -> Step:
    return plain(lambda x: torch.cat([x[:, :0], x], 1))


@kind("image")
def shuffle(x: Tensor, n: int) -> Step:
    c = x.shape[1]
    g = divisor(c, n)
    if n % 2:
        return plain(lambda x: F.channel_shuffle(x, g))
    return plain(lambda x: x.view(-1, g, c // g, *x.shape[2:]).transpose(1, 2).reshape(x.shape))
