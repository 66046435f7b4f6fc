"""Attention: the fused operation. Hand-written forms need no rule of their own: they are matmul, softmax, matmul."""

from __future__ import annotations

import math
from typing import Any

from torch import fx

from niwaki.spaces import algebra, axes
from niwaki.spaces.axes import Dim
from niwaki.spaces.passes import Call, Rule
from niwaki.spaces.rules.linear import broadcast


def scaled_dot_product(call: Call) -> None:
    """``(q (..., H, L, E), k (..., G, S, E), v (..., G, S, V), mask, dropout, causal, scale, gqa)`` -> ``(..., L, V)``.

    The scale is written out: its default follows the width of a head, which must not change what is computed.
    """
    q, k, v = (call.dims(call.arg(i, name)) for i, name in enumerate(("query", "key", "value")))
    call.unify(q[-1], k[-1])
    call.unify(k[-2], v[-2])
    call.pin(k[-2], "attention runs over it")
    lead = broadcast(call, k[:-2], v[:-2])
    lead = _shared_heads(call, q[:-2], lead) if call.arg(7, "enable_gqa", False) else broadcast(call, q[:-2], lead)
    mask = call.arg(3, "attn_mask")
    if mask is not None:
        broadcast(call, [*lead, q[-2], k[-2]], call.dims(mask))
    call.out([*lead, q[-2], v[-1]])
    positions = [*lead[1:], q[-2]]
    call.row("matmul", [*lead, q[-2], q[-1], k[-2]], (q[-1], k[-2]), positions)
    call.row("matmul", [*lead, q[-2], k[-2], v[-1]], (k[-2], v[-1]), positions)
    if call.arg(6, "scale") is None:
        call.rewrite(*call.node.args[:6], scale=1 / math.sqrt(axes.dim_size(q[-1])))


def _shared_heads(call: Call, q: list[Dim], kv: list[Dim]) -> list[Dim]:
    """Grouped-query attention: each head of keys and values serves a run of ``H / G`` query heads."""
    share = axes.dim_size(q[-1]) // axes.dim_size(kv[-1])
    call.unify(q[-1], algebra.merge([kv[-1], axes.new(share, "query heads that share a key head")]))
    return [*broadcast(call, q[:-1], kv[:-1]), q[-1]]


def take(call: Call) -> None:
    """``x[idx, ...]``: indexed dimensions are pinned, the shape of the indices takes their place, the rest flows."""
    x, indices = call.node.args[0], list(call.node.args[1])  # type: ignore[arg-type]
    dims, shape = call.dims(x), call.shape()
    where = [i for i, index in enumerate(indices) if index is not None]
    rest = [d for i, d in enumerate(dims) if i not in where]
    new = len(shape) - len(rest)
    if not where or new < 0 or any(_is_mask(indices[i]) for i in where):
        call.give_up("indexed by a mask")
        return
    for i in where:
        call.dims(indices[i])
        call.pin(dims[i], "indexed by position")
    first = where[0] if where == list(range(where[0], where[-1] + 1)) else 0
    made = [call.data(s) for s in shape[first : first + new]]
    call.out([*rest[:first], *made, *rest[first:]])


def _is_mask(index: Any) -> bool:
    return not isinstance(index, fx.Node) or str(index.meta["val"].dtype) in ("torch.bool", "torch.uint8")


def select_rows(call: Call) -> None:
    """``index_select(x, dim, idx)``."""
    dims = list(call.dims(call.node.args[0]))
    dim = call.arg(1, "dim") % len(dims)
    call.dims(call.arg(2, "index"))
    call.pin(dims[dim], "indexed by position")
    dims[dim] = call.data(call.shape()[dim])
    call.out(dims)


RULES: dict[str, Rule] = {
    "aten.scaled_dot_product_attention.default": scaled_dot_product,
    "aten.index.Tensor": take,
    "aten.index_select.default": select_rows,
}
