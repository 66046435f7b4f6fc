"""PyTorch eager on this machine's processor."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch as pytorch
from torch import Tensor, nn

from niwaki.search.targets._base import Run, shape_option
from niwaki.search.targets._eager import converted, dtype_option, inference


@dataclass(frozen=True)
class Torch:
    """Spec ``torch:threads=1,batch=1,layout=contiguous,dtype=float32,shape=3x224x224``.

    Attributes:
        threads: intra-op threads.
        batch: examples a run.
        layout: ``contiguous`` or ``channels_last`` (4-d inputs and convolution weights in NHWC order in memory).
        dtype: ``float32`` or ``bfloat16``.
        shape: of one example; empty: as the example that is given.
    """

    threads: int = 1
    batch: int = 1
    layout: str = field(default="contiguous", metadata={"valid": ("contiguous", "channels_last")})
    dtype: str = dtype_option("float32", "bfloat16")
    shape: str = shape_option()

    def prepare(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Run:
        """See :class:`niwaki.search.targets.Target`."""
        ready, inputs = converted(model, inputs, self.dtype)
        if self.layout == "channels_last":
            order = pytorch.channels_last
            ready = ready.to(memory_format=order)
            inputs = tuple(t.contiguous(memory_format=order) if t.dim() == 4 else t for t in inputs)
        return inference(ready, inputs)

    def version(self) -> str:
        return f"torch {pytorch.__version__}"
