"""The exact cost of a model as it is.

Convention: 1 multiply-accumulate = 1 MAC; convolutions, linears and matmuls are counted, for one example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode, flop_registry, sdpa_flop_count

from niwaki.spaces.trace import Example, as_tuple, restored_modes
from niwaki.spaces.types import Cost


def count(model: nn.Module, example: Example, sparse: Mapping[str, str] | None = None) -> Cost:
    """Count a model as it is.

    Args:
        model: any module; it is left untouched.
        example: tensor or tuple of tensors, batch first; only the shape of one example matters.
        sparse: layer -> pattern token, for layers whose weight is stored as values + bitmap (``Candidate.sparsity``).
            Their zeros are counted, not assumed.

    Returns:
        Cost with ``macs`` for one example, ``params`` elements, ``bytes`` of the state dict's tensors as stored.

    Example:
        >>> count(nn.Linear(8, 4), torch.zeros(1, 8))
        Cost(macs=32, params=36, bytes=144, latency_ms=None, memory_bytes=None)
    """
    return Cost(_macs(model, as_tuple(example)), *weigh(model, sparse))


def weigh(model: nn.Module, sparse: Mapping[str, str] | None = None) -> tuple[int, int]:
    """Parameters, and bytes of the state dict as stored: what of :func:`count` needs no input."""
    total = 0
    for key, value in model.state_dict().items():
        total += value.numel() * value.element_size()
        if sparse and key.removesuffix(".weight") in sparse:
            numel, itemsize = value.numel(), value.element_size()
            total += int(torch.count_nonzero(value)) * itemsize + (numel + 7) // 8 - numel * itemsize
    return sum(p.numel() for p in model.parameters()), total


def _macs(model: nn.Module, args: tuple[Tensor, ...]) -> int:
    """Run one example on meta tensors (no arithmetic, no memory) under torch's counter; it counts 2 per MAC.

    A model that holds tensors which are neither parameters nor buffers cannot move to meta: it runs where it is.
    """
    state: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    meta = {k: v.detach().to("meta") for k, v in state.items()}
    device = next(iter(state.values())).device if state else torch.device("cpu")
    with restored_modes(model), torch.no_grad():
        model.eval()
        try:
            return _counted(lambda: functional_call(model, meta, tuple(a[:1].to("meta") for a in args)))
        except RuntimeError:
            return _counted(lambda: model(*[a[:1].to(device) for a in args]))


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Two products of matrices, from the shapes of the three inputs."""
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


_FUSED_ON_CPU = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_UNCOUNTED: dict[Any, Any] = {} if _FUSED_ON_CPU in flop_registry else {_FUSED_ON_CPU: _attention_flops}
"""Torch before 2.15 does not count the fused attention of CPUs."""


def _counted(run: Callable[[], object]) -> int:
    counter = FlopCounterMode(display=False, custom_mapping=_UNCOUNTED)
    with counter:
        run()
    return int(counter.get_total_flops()) // 2
