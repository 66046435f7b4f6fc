"""Steps along channels that most tools get wrong: orders, sums and indices that depend on the position."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.spaces.steps import Held, Step, kind, plain


@kind("image")
def flip_channels(x: Tensor, n: int) -> Step:
    return plain(lambda x: x.flip(1))


@kind("image")
def cumsum_channels(x: Tensor, n: int) -> Step:
    return plain(lambda x: x.cumsum(1))


@kind("image")
def sort_channels(x: Tensor, n: int) -> Step:
    return plain(lambda x: x.sort(1).values)


@kind("image")
def fft_channels(x: Tensor, n: int) -> Step:
    return plain(lambda x: torch.fft.fft(x, dim=1 + n % 3).abs())


@kind("image")
def roll_channels(x: Tensor, n: int) -> Step:
    return plain(lambda x: x.roll(1 + n % 2, 1))


@kind("image")
def stride_channels(x: Tensor, n: int) -> Step | None:
    return plain(lambda x: x[:, n % 2 :: 2]) if x.shape[1] > 3 else None


@kind("image")
def topk_channels(x: Tensor, n: int) -> Step | None:
    return plain(lambda x: x.topk(3, 1).values) if x.shape[1] > 3 else None


@kind("image")
def index_channels(x: Tensor, n: int) -> Step:
    order = torch.arange(x.shape[1]).flip(0)
    if n % 2:
        return Step(Held(_order=order), lambda m, x: x.index_select(1, m.order))
    return Step(Held(_order=order), lambda m, x: x[:, m.order])


@kind("image")
def repeat_channels(x: Tensor, n: int) -> Step | None:
    if x.shape[1] > 8:
        return None
    return plain((lambda x: x.repeat(1, 2, 1, 1)) if n % 2 else (lambda x: x.repeat_interleave(2, 1)))


@kind("image")
def unfold(x: Tensor, n: int) -> Step | None:
    return plain(lambda x: F.unfold(x, 2).transpose(1, 2)) if x.shape[1] <= 4 and min(x.shape[2:]) > 1 else None


@kind("image")
def channel_weights(x: Tensor, n: int) -> Step:
    """A mask of constants: the first channels only."""
    return plain(lambda x: x * (torch.arange(x.shape[1]) < 3).to(x.dtype).view(-1, 1, 1))
