"""What an operation costs that no rule describes: all it touches is pinned, so one number holds for every candidate."""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode


def fixed_macs(node: fx.Node) -> int:
    """MACs of one example, by running the operation on meta tensors under torch's counter (2 FLOPs a MAC)."""
    args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), lambda n: pytree.tree_map(_single, n.meta.get("val")))
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            node.target(*args, **kwargs)  # type: ignore[operator]
    except Exception:  # sizes that depend on data: no such operation multiplies matrices
        return 0
    return int(counter.get_total_flops()) // 2


def _single(value: Any) -> Any:
    """A traced tensor or size as it is for a batch of one; anything else as it is."""
    if isinstance(value, Tensor):
        return torch.empty([_size(s) for s in value.shape], dtype=value.dtype, device="meta")
    return _size(value) if isinstance(value, torch.SymInt) else value


def _size(size: int | torch.SymInt) -> int:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, 1)))
