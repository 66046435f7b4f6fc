"""Normalisers: BatchNorm works per channel; statistics over the pruned axis make removal differ from zeroing."""

from __future__ import annotations

from niwaki.spaces import algebra, axes
from niwaki.spaces.passes import Call, Rule, Size


def batch_norm(call: Call) -> None:
    """``(x, weight, bias, running_mean, running_var, training, ...)``, all ``(C,)``."""
    dims = call.dims(call.arg(0, "input"))
    for i, name in enumerate(("weight", "bias", "running_mean", "running_var"), start=1):
        value = call.arg(i, name)
        if value is not None:
            call.unify(dims[1], call.dims(value)[0])
            call.carries(value)
    call.node.meta["niwaki_channel"] = 1
    call.out(dims)
    call.row("norm", [], (dims[1], dims[1]), dims[2:])


def layer_norm(call: Call) -> None:
    """``(x, normalized_shape, weight, bias, eps)``: statistics over the last dimensions."""
    dims, shape = call.dims(call.arg(0, "input")), call.arg(1, "normalized_shape")
    last = dims[len(dims) - len(shape) :]
    for i, name in ((2, "weight"), (3, "bias")):
        value = call.arg(i, name)
        if value is not None:
            for a, b in zip(last, call.dims(value), strict=True):
                call.unify(a, b)
            call.carries(value)
    for dim in last:
        axes.inexact(dim)
    call.out(dims)
    call.rewrite(call.node.args[0], [Size(d) for d in last], *call.node.args[2:])
    call.row("norm", [], (last[-1], last[-1]), dims[1 : len(dims) - 1])


def group_norm(call: Call) -> None:
    """``(x, num_groups, weight, bias, eps)``: channels = groups x width, statistics over the width."""
    dims, groups = call.dims(call.arg(0, "input")), call.arg(1, "num_groups")
    for i, name in ((2, "weight"), (3, "bias")):
        value = call.arg(i, name)
        if value is not None:
            call.unify(dims[1], call.dims(value)[0])
            call.carries(value)
    parts = algebra.split(dims[1], [groups, axes.dim_size(dims[1]) // groups])
    if parts is None:
        call.pin(dims[1], "group_norm: its groups do not divide the concatenation")
    else:
        axes.inexact(parts[1])
        call.rewrite(call.node.args[0], Size(parts[0]), *call.node.args[2:])
    call.out(dims)
    call.row("norm", [], (dims[1], dims[1]), dims[2:])


def reduce(call: Call) -> None:
    """Means and sums over dimensions: the reduced ones are pinned (a divisor, or units that mix)."""
    dims = call.dims(call.arg(0, "self"))
    axis = call.arg(1, "dim")
    over = {d % len(dims) for d in (axis if isinstance(axis, (list, tuple)) else [axis])} if axis is not None else set()
    over = over or set(range(len(dims)))
    keep = bool(call.arg(2, "keepdim", False))
    for d in over:
        call.pin(dims[d], f"{call.node.target} runs over it")
    call.out([axes.ONE if i in over else dim for i, dim in enumerate(dims) if keep or i not in over])
    rest = [d for i, d in enumerate(dims) if i not in over and i > 0]
    call.row("pool", [], (rest[0], rest[0]) if rest else ((), ()), dims[2:])


RULES: dict[str, Rule] = {
    "aten.batch_norm.default": batch_norm,
    "aten.layer_norm.default": layer_norm,
    "aten.group_norm.default": group_norm,
    "aten.mean.dim": reduce,
    "aten.mean.default": reduce,
    "aten.sum.dim_IntList": reduce,
    "aten.sum.default": reduce,
    "aten.amax.default": reduce,
}
