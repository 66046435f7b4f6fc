"""Channel-wise interpolation: a feature of C channels as one of another number of channels (TAS, section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def interpolate(x: Tensor, dim: int, channels: int) -> Tensor:
    """``x`` with ``channels`` positions along ``dim``: adaptive average pooling over the channels.

    Output o is the mean of the inputs floor(o * C / channels) .. ceil((o + 1) * C / channels) - 1. Written as a product
    with the pooled identity, whose gradient is another product: fast on every device, and deterministic.

    Example:
        >>> interpolate(torch.tensor([[1.0, 3.0]]), 1, 4).tolist()
        [[1.0, 1.0, 3.0, 3.0]]
    """
    size = x.shape[dim]
    if channels == size:
        return x
    pooling = F.adaptive_avg_pool1d(torch.eye(size, device=x.device, dtype=x.dtype)[None], channels)[0].t()
    before, after = x.shape[:dim], x.shape[dim + 1 :]
    return torch.matmul(pooling, x.reshape(*before, size, after.numel())).reshape(*before, channels, *after)
