"""How a model runs: the precision of its arithmetic and the layout of its images and kernels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Precision = Literal["fp32", "bf16"]
Layout = Literal["contiguous", "channels_last"]


@dataclass(frozen=True)
class Numerics:
    """``precision``: fp32, or bf16 (autocast; parameters stay float32). ``layout``: of 4-dimensional tensors.

    Example:
        >>> Numerics(layout="channels_last").arranged(torch.zeros(2, 3, 4, 4)).stride()
        (48, 1, 12, 3)
    """

    precision: Precision = "fp32"
    layout: Layout = "contiguous"

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """The context for a forward pass on ``device``."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def arranged(self, images: Tensor) -> Tensor:
        """The images in this layout; only (B, C, H, W) has two."""
        if self.layout == "channels_last" and images.dim() == 4:
            return images.contiguous(memory_format=torch.channels_last)
        return images

    def arrange(self, model: nn.Module) -> None:
        """Put the model's 4-dimensional parameters into this layout, in place (``Module.to`` refuses 3-D kernels)."""
        order = torch.channels_last if self.layout == "channels_last" else torch.contiguous_format
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dim() == 4:
                tensor.data = tensor.data.contiguous(memory_format=order)

    @contextmanager
    def running(self, model: nn.Module, device: torch.device) -> Iterator[None]:
        """Run ``model`` in these numerics for a while; its parameters are contiguous afterwards."""
        try:
            self.arrange(model)
            with self.autocast(device):
                yield
        finally:
            Numerics().arrange(model)
