"""PyTorch eager on this machine's processor."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch as pytorch
from torch import Tensor, nn


@dataclass(frozen=True)
class Torch:
    """Spec ``torch:threads=1,batch=1,layout=contiguous``.

    Attributes:
        threads: intra-op threads.
        batch: examples a run.
        layout: ``contiguous`` or ``channels_last`` (4-d inputs and convolution weights in NHWC order in memory).
    """

    threads: int = 1
    batch: int = 1
    layout: str = field(default="contiguous", metadata={"valid": ("contiguous", "channels_last")})

    def prepare(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], object]:
        """See :class:`niwaki.search.targets.Target`."""
        ready = copy.deepcopy(model).cpu().eval().requires_grad_(False)
        if self.layout == "channels_last":
            order = pytorch.channels_last
            ready = ready.to(memory_format=order)
            inputs = tuple(t.contiguous(memory_format=order) if t.dim() == 4 else t for t in inputs)

        def run() -> object:
            with pytorch.inference_mode():
                return ready(*inputs)

        return run

    def version(self) -> str:
        return f"torch {pytorch.__version__}"
