"""Sums of dimensions: concatenate, split, slice, pad."""

from __future__ import annotations

from typing import Any

from torch import fx

from niwaki.spaces import algebra, axes
from niwaki.spaces.passes import Before, Call, Rule, Size
from niwaki.spaces.trace import hint


def cat(call: Call) -> None:
    operands = [call.dims(t) for t in call.arg(0, "tensors")]
    rank = len(operands[0])
    dim = call.arg(1, "dim", 0) % rank
    for other in operands[1:]:
        for i in range(rank):
            if i != dim:
                call.unify(operands[0][i], other[i])
    joined = tuple(p for o in operands for p in o[dim])
    call.out([joined if i == dim else d for i, d in enumerate(operands[0])])


def _split_into(call: Call, dim: int, sizes: list[int]) -> None:
    x = call.node.args[0]
    dims = call.dims(x)
    parts = algebra.chunks(dims[dim], sizes)
    if parts is None:
        reason = call.reason(f"{call.node.target} cuts inside a factor")
        axes.pin(dims[dim], reason)
        parts = [axes.new(s, reason) for s in sizes]
    call.out(*[[part if i == dim else d for i, d in enumerate(dims)] for part in parts])
    if not any(atom.batch for atom in axes.leaves(dims[dim])):  # the batch is cut as it comes
        call.rewrite(x, [Size(p) for p in parts], dim, target="aten.split_with_sizes.default")


def split(call: Call) -> None:
    """``split(x, size)``, ``split_with_sizes(x, sizes)`` and ``chunk(x, n)``: all become explicit sizes."""
    dim = call.arg(2, "dim", 0)
    shapes = call.shapes()
    dim %= len(shapes[0])
    _split_into(call, dim, [s[dim] for s in shapes])


def unbind(call: Call) -> None:
    dims = call.dims(call.node.args[0])
    dim = call.arg(1, "dim", 0) % len(dims)
    call.pin(dims[dim], "unbind takes it apart")
    call.out(*[[d for i, d in enumerate(dims) if i != dim] for _ in call.shapes()])


def getitem(call: Call) -> None:
    source: Any = call.node.args[0]
    index: Any = call.node.args[1]
    parts = call.analysis.values[source]
    if index < len(parts):
        call.out(call.dims(source, index))


def slice_(call: Call) -> None:
    """``(x, dim, start, end, step)``; a step other than 1 over units is pinned."""
    x, dims = call.node.args[0], call.dims(call.node.args[0])
    dim = call.arg(1, "dim", 0) % len(dims)
    start, end, step = call.arg(2, "start"), call.arg(3, "end"), call.arg(4, "step", 1)
    total = axes.dim_size(dims[dim])
    lo, hi = _bound(start, 0, total), _bound(end, total, total)
    whole = (lo, hi, step) == (0, total, 1)
    if whole or step != 1 or isinstance(start, fx.Node) or isinstance(end, fx.Node):
        if not whole:
            call.pin(dims[dim], f"a slice with step {step}")
        size = call.shape()[dim]
        call.out([dims[dim] if whole and i == dim else call.data(size) if i == dim else d for i, d in enumerate(dims)])
        return
    parts = algebra.chunks(dims[dim], [lo, hi - lo, total - hi])
    if parts is None:
        reason = call.reason("a slice cuts inside a factor")
        axes.pin(dims[dim], reason)
        parts = [axes.ONE, axes.new(hi - lo, reason), axes.ONE]
    else:
        call.rewrite(x, dim, Before(dims[dim], lo), Before(dims[dim], hi))
    call.out([parts[1] if i == dim else d for i, d in enumerate(dims)])


def _bound(value: Any, default: int, total: int) -> int:
    if value is None:
        return default
    n = hint(value) if not isinstance(value, fx.Node) else hint(value.meta["val"])
    return max(0, min(total, n + total if n < 0 else n))


def select(call: Call) -> None:
    dims = call.dims(call.node.args[0])
    dim = call.arg(1, "dim", 0) % len(dims)
    call.pin(dims[dim], "its positions differ in role, such as q, k and v: select takes one")
    call.out([d for i, d in enumerate(dims) if i != dim])


def pad(call: Call) -> None:
    """``(x, [last_left, last_right, ...], mode, value)``: constant padding adds units that are zero."""
    x, amounts = call.node.args[0], list(call.arg(1, "pad"))
    dims = list(call.dims(x))
    constant = call.node.target.__name__.startswith("constant_pad_nd") or call.arg(2, "mode", "constant") == "constant"  # type: ignore[union-attr]
    literals: list[Any] = list(amounts)
    for k in range(0, len(amounts), 2):
        i = len(dims) - 1 - k // 2
        before, after = amounts[k], amounts[k + 1]
        if not (isinstance(before, int) and isinstance(after, int) and before >= 0 and after >= 0 and constant):
            call.pin(dims[i], "padding that is not constant")
            dims[i] = call.data(call.shape()[i])
            continue
        left, right = _zeros(before), _zeros(after)
        dims[i] = left + dims[i] + right
        literals[k], literals[k + 1] = Size(left), Size(right)
    call.rewrite(x, literals, *call.node.args[2:])
    call.out(dims)


def _zeros(n: int) -> axes.Dim:
    """``n`` padded positions: free units, so that they may meet real ones in an addition."""
    return () if n == 0 else ((axes.Atom(n),),)


def stack(call: Call) -> None:
    operands = [call.dims(t) for t in call.arg(0, "tensors")]
    for other in operands[1:]:
        for a, b in zip(operands[0], other, strict=True):
            call.unify(a, b)
    dims = list(operands[0])
    dims.insert(call.arg(1, "dim", 0) % (len(dims) + 1), axes.new(len(operands), "stacked tensors"))
    call.out(dims)


RULES: dict[str, Rule] = {
    "aten.cat.default": cat,
    "aten.stack.default": stack,
    "aten.chunk.default": split,
    "aten.split.Tensor": split,
    "aten.split.sizes": split,
    "aten.tensor_split.indices": split,
    "aten.tensor_split.sections": split,
    "aten.split_with_sizes.default": split,
    "aten.unbind.int": unbind,
    "<built-in function getitem>": getitem,
    "aten.slice.Tensor": slice_,
    "aten.select.int": select,
    "aten.pad.default": pad,
    "aten.constant_pad_nd.default": pad,
}
