"""Normalisers: BatchNorm works per channel; statistics over the pruned axis make removal differ from zeroing."""

from __future__ import annotations

from niwaki.spaces import algebra, axes
from niwaki.spaces.passes import Call, Rule, Size


def batch_norm(call: Call) -> None:
    """``(x, weight, bias, running_mean, running_var, training, ...)``, all ``(C,)``; ``instance_norm`` alike."""
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
    """``(x, normalized_shape, weight, bias, eps)``, and ``rms_norm`` without a bias: over the last dimensions."""
    dims, shape = call.dims(call.arg(0, "input")), call.arg(1, "normalized_shape")
    last = dims[len(dims) - len(shape) :]
    for i, name in ((2, "weight"), (3, "bias")):
        value = call.arg(i, name)
        if call.is_tensor(value):
            for a, b in zip(last, call.dims(value), strict=True):
                call.unify(a, b)
            call.carries(value)
    call.over_kept(*last)
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
        call.over_kept(parts[1])
        call.rewrite(call.node.args[0], Size(parts[0]), *call.node.args[2:])
    call.out(dims)
    call.row("norm", [], (dims[1], dims[1]), dims[2:])


def total(call: Call) -> None:
    """Sums over dimensions: a removed unit and a zero one are the same."""
    over = _reduced(call)
    dims = call.dims(call.arg(0, "self"))
    _reduce(call, dims, over)


def statistic(call: Call) -> None:
    """Means, variances and extremes over dimensions: computed over the units that stay."""
    over = _reduced(call)
    dims = call.dims(call.arg(0, "self"))
    call.over_kept(*[dims[d] for d in over])
    _reduce(call, dims, over)


def vector_norm(call: Call) -> None:
    """``(x, ord, dim, keepdim)``: a sum of powers, or an extreme of absolute values."""
    _reduce(call, call.dims(call.arg(0, "self")), _reduced(call, 2), 3)


def position(call: Call) -> None:
    """``argmax`` and the like give places, so that nothing they look through may move."""
    dims = call.dims(call.arg(0, "self"))
    over = _reduced(call)
    for d in over:
        call.pin(dims[d], f"{call.node.target} gives places in it")
    _reduce(call, dims, over)


def _reduced(call: Call, at: int = 1) -> set[int]:
    """The dimensions that go; all of them where none is named."""
    n = len(call.dims(call.arg(0, "self")))
    axis = call.arg(at, "dim")
    over = {d % n for d in (axis if isinstance(axis, (list, tuple)) else [axis])} if axis is not None else set()
    return over or set(range(n))


def _reduce(call: Call, dims: list[axes.Dim], over: set[int], keep_at: int = 2) -> None:
    keep = bool(call.arg(keep_at, "keepdim", False))
    result = [axes.ONE if i in over else dim for i, dim in enumerate(dims) if keep or i not in over]
    call.out(*[result] * len(call.shapes()))
    rest = [d for i, d in enumerate(dims) if i not in over and i > 0]
    call.row("pool", [], (rest[0], rest[0]) if rest else ((), ()), dims[2:])


RULES: dict[str, Rule] = {
    "aten.batch_norm.default": batch_norm,
    "aten.instance_norm.default": batch_norm,
    "aten.layer_norm.default": layer_norm,
    "aten.rms_norm.default": layer_norm,
    "aten.group_norm.default": group_norm,
    "aten.sum.dim_IntList": total,
    "aten.sum.default": total,
    "aten.linalg_vector_norm.default": vector_norm,
    **dict.fromkeys(
        (
            "aten.mean.dim",
            "aten.mean.default",
            "aten.amax.default",
            "aten.amin.default",
            "aten.max.dim",
            "aten.min.dim",
            "aten.max.default",
            "aten.min.default",
            "aten.var.correction",
            "aten.std.correction",
            "aten.var.dim",
            "aten.std.dim",
            "aten.var_mean.correction",
            "aten.logsumexp.default",
        ),
        statistic,
    ),
    "aten.argmax.default": position,
    "aten.argmin.default": position,
}
