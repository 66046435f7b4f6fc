"""A model and its inputs as PyTorch's own runtimes take them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import field

import torch as pytorch
from torch import Tensor, nn

from niwaki.search.targets._base import Run


def dtype_option(*valid: str) -> str:
    """The field ``dtype`` of a target: what parameters, buffers and inputs in floating point are turned into."""
    made: str = field(default=valid[0], metadata={"valid": valid})
    return made


def converted(
    model: nn.Module, inputs: tuple[Tensor, ...], dtype: str, device: str = "cpu"
) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A copy of the model in eval mode, and the inputs, on ``device`` and with floating point as ``dtype``."""
    kind: pytorch.dtype = getattr(pytorch, dtype)
    ready = copy.deepcopy(model).eval().requires_grad_(False).to(device, kind)
    return ready, tuple(t.to(device, kind if t.is_floating_point() else t.dtype) for t in inputs)


def inference(model: Callable[..., object], inputs: tuple[Tensor, ...]) -> Run:
    """Runs the model once without recording anything for gradients."""

    def run() -> object:
        with pytorch.inference_mode():
            return model(*inputs)

    return run
