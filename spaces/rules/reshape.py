"""Views: merge and factor dimensions; moves: permute, transpose, squeeze, expand, roll."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from niwaki.spaces import algebra, axes
from niwaki.spaces.axes import Dim
from niwaki.spaces.passes import Call, Free, Rule, Size, opaque
from niwaki.spaces.rules.linear import broadcast


def view(call: Call) -> None:
    """``view``, ``reshape``, ``flatten``, ``unflatten``: blocks of dimensions with equal products are regrouped."""
    x = call.node.args[0]
    dims = call.dims(x)
    out = regroup(call, dims, call.shape())
    call.out(out)
    name = str(call.node.target)
    if name in ("aten.view.default", "aten.reshape.default", "aten._unsafe_view.default"):
        call.rewrite(x, [literal(v, d) for v, d in zip(call.node.args[1], out, strict=True)])  # type: ignore[arg-type]
    elif name == "aten.unflatten.int":
        dim = int(call.node.args[1]) % len(dims)  # type: ignore[arg-type]
        sizes = call.node.args[2]
        call.rewrite(x, dim, [literal(v, out[dim + i]) for i, v in enumerate(sizes)])  # type: ignore[arg-type]


def literal(value: Any, dim: Dim) -> Any:
    """A size argument: -1 stays, a number follows its dimension, a computed size gives way when it shrinks."""
    if isinstance(value, fx.Node):
        return Free(dim, value)
    return value if value == -1 else Size(dim)


def regroup(call: Call, dims: list[Dim], shape: list[int]) -> list[Dim]:
    """Dimensions of the reshaped tensor; a block that cannot be factored is pinned, the others are not."""
    out: list[Dim] = []
    i = j = 0
    while i < len(dims) or j < len(shape):
        block, sizes = _block(dims, shape, i, j)
        out.extend(_reshape_block(call, dims[i : i + block], shape[j : j + sizes]))
        i, j = i + block, j + sizes
    return out


def _block(dims: list[Dim], shape: list[int], i: int, j: int) -> tuple[int, int]:
    """The shortest runs from i and j with equal products."""
    if i >= len(dims):
        return 0, len(shape) - j
    if j >= len(shape):
        return len(dims) - i, 0
    m, n = 1, 1
    a, b = axes.dim_size(dims[i]), shape[j]
    while a != b:
        if a < b:
            a *= axes.dim_size(dims[i + m])
            m += 1
        else:
            b *= shape[j + n]
            n += 1
    return m, n


def _reshape_block(call: Call, dims: list[Dim], shape: list[int]) -> list[Dim]:
    if len(dims) == len(shape) == 1:
        return dims
    if not dims or not shape:
        return [axes.ONE] * len(shape)
    merged = algebra.merge([d for d in dims if axes.dim_size(d) != 1 or len(dims) == 1]) if len(dims) > 1 else dims[0]
    parts = algebra.split(merged, shape)
    if parts is None:
        reason = call.reason(f"{call.node.target} to {shape} cuts inside a factor")
        for dim in dims:
            axes.pin(dim, reason)
        return [axes.new(s, reason) for s in shape]
    return parts


def view_as(call: Call) -> None:
    """``(x, other)``: the sizes are read from ``other`` when it runs, so both must hold the same units."""
    out = regroup(call, call.dims(call.node.args[0]), call.shape())
    for mine, theirs in zip(out, call.dims(call.node.args[1]), strict=True):
        call.unify(mine, theirs)
    call.out(out)


def permute(call: Call) -> None:
    dims = call.dims(call.node.args[0])
    call.out([dims[d] for d in call.node.args[1]])  # type: ignore[index,union-attr]


def transpose(call: Call) -> None:
    dims = list(call.dims(call.node.args[0]))
    a, b = call.arg(1, "dim0"), call.arg(2, "dim1")
    dims[a], dims[b] = dims[b], dims[a]
    call.out(dims)


def turn(call: Call) -> None:
    """``t``, ``T``, ``mT``: the last two dimensions change places (all of them for ``T``)."""
    dims = call.dims(call.node.args[0])
    whole = "numpy_T" in str(call.node.target)
    call.out(dims[::-1] if whole or len(dims) < 2 else [*dims[:-2], dims[-1], dims[-2]])


def squeeze(call: Call) -> None:
    dims = call.dims(call.node.args[0])
    axis = call.arg(1, "dim")
    over = (
        set(range(len(dims)))
        if axis is None
        else {d % len(dims) for d in (axis if isinstance(axis, (list, tuple)) else [axis])}
    )
    call.out([d for i, d in enumerate(dims) if i not in over or axes.dim_size(d) != 1])


def unsqueeze(call: Call) -> None:
    dims = list(call.dims(call.node.args[0]))
    dims.insert(call.arg(1, "dim") % (len(dims) + 1), axes.ONE)
    call.out(dims)


def expand(call: Call) -> None:
    """``(x, sizes)``: a size of 1 becomes data, the rest flows."""
    x, dims, sizes = call.node.args[0], list(call.dims(call.node.args[0])), call.arg(1, "size")
    made = opaque(call.node.meta["val"], "expanded")
    dims = [axes.ONE] * (len(made) - len(dims)) + dims
    out = [d if axes.dim_size(d) == axes.dim_size(new) else new for d, new in zip(dims, made, strict=True)]
    call.out(out)
    call.rewrite(x, [literal(v, d) for v, d in zip(sizes, out, strict=True)])


def expand_as(call: Call) -> None:
    """``(x, other)``: a broadcast to the dimensions of ``other``."""
    other = call.dims(call.node.args[1])
    broadcast(call, call.dims(call.node.args[0]), other)
    call.out(other)


def move(call: Call) -> None:
    """``movedim(x, source, destination)``."""
    dims = call.dims(call.node.args[0])
    order = torch.empty(range(1, len(dims) + 1), device="meta").movedim(*call.node.args[1:3]).shape  # type: ignore[arg-type]
    call.out([dims[k - 1] for k in order])


def reverse(call: Call) -> None:
    """``flip(x, dims)``: units in the other order are other units."""
    dims = call.dims(call.node.args[0])
    for d in call.arg(1, "dims"):
        call.pin(dims[d], "flipped")
    call.out(dims)


def roll(call: Call) -> None:
    """``(x, shifts, dims)``: places move round; without ``dims`` over the flattened tensor."""
    dims = call.dims(call.node.args[0])
    over = call.arg(2, "dims", ())
    for d in over or range(len(dims)):
        call.pin(dims[d], "rolled")
    call.out(dims)


RULES: dict[str, Rule] = {
    **{
        f"aten.{name}": view
        for name in ("view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints", "unflatten.int")
    },
    **dict.fromkeys(("aten.view_as.default", "aten.reshape_as.default"), view_as),
    "aten.permute.default": permute,
    **dict.fromkeys(
        ("aten.transpose.int", "aten.swapaxes.default", "aten.swapdims.default", "aten.transpose_.default"), transpose
    ),
    **dict.fromkeys(("aten.t.default", "aten.numpy_T.default", "aten.mT.default"), turn),
    **dict.fromkeys(("aten.movedim.int", "aten.movedim.intlist", "aten.moveaxis.intlist"), move),
    "aten.flip.default": reverse,
    "aten.roll.default": roll,
    "aten.expand_as.default": expand_as,
    "aten.squeeze.default": squeeze,
    "aten.squeeze.dim": squeeze,
    "aten.squeeze.dims": squeeze,
    "aten.unsqueeze.default": unsqueeze,
    "aten.expand.default": expand,
}
