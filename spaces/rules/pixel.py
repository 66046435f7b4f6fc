"""Channels that become places and back, channels in another order, repeats, gates, interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from niwaki.spaces import algebra, axes
from niwaki.spaces.axes import Dim
from niwaki.spaces.passes import Call, Rule, Size, opaque
from niwaki.spaces.rules.pool import pool


def pixel_shuffle(call: Call) -> None:
    """``(..., C r r, H, W)`` -> ``(..., C, H r, W r)``: the r's are places, so that channels go r r at a time."""
    dims, shape = call.dims(call.arg(0, "self")), call.shape()
    factors = _factors(call, dims[-3], shape[-3], "places that were channels")
    call.out([*dims[:-3], factors[0], call.data(shape[-2]), call.data(shape[-1])])
    call.row("pool", [], (dims[-3], factors[0]), [call.data(s) for s in shape[-2:]])


def pixel_unshuffle(call: Call) -> None:
    """``(..., C, H r, W r)`` -> ``(..., C r r, H, W)``."""
    dims, shape = call.dims(call.arg(0, "self")), call.shape()
    places = axes.new(shape[-3] // axes.dim_size(dims[-3]), call.reason("channels that were places"))
    channels = algebra.merge([dims[-3], places])
    call.out([*dims[:-3], channels, call.data(shape[-2]), call.data(shape[-1])])
    call.row("pool", [], (dims[-3], channels), [call.data(s) for s in shape[-2:]])


def _factors(call: Call, dim: Dim, outer: int, text: str) -> tuple[Dim, Dim]:
    """``dim`` as outer x inner with the inner one pinned; all of it pinned where it does not divide."""
    inner = axes.dim_size(dim) // outer
    parts = algebra.split(dim, [outer, inner])
    if parts is None:
        reason = call.reason(f"{call.node.target} cuts inside a factor")
        axes.pin(dim, reason)
        return axes.new(outer, reason), axes.new(inner, reason)
    call.pin(parts[1], text)
    return parts[0], parts[1]


def channel_shuffle(call: Call) -> None:
    """``(x (B, C, ...), groups)``: channels ``groups x n`` become ``n x groups``."""
    x, dims, groups = call.node.args[0], list(call.dims(call.node.args[0])), call.arg(1, "groups")
    parts = algebra.split(dims[1], [groups, axes.dim_size(dims[1]) // groups])
    if parts is None:
        call.pin(dims[1], "channel_shuffle cuts inside a factor")
        dims[1] = axes.new(axes.dim_size(dims[1]), call.reason("channel_shuffle cuts inside a factor"))
    else:
        call.rewrite(x, Size(parts[0]))
        dims[1] = algebra.merge([parts[1], parts[0]])
    call.out(dims)
    call.row("elementwise", [], (dims[1], dims[1]), dims[2:])


def repeat_interleave(call: Call) -> None:
    """``(x, n, dim)``: every position stands n times in a row, as the key heads of grouped queries do."""
    dims, times, dim = list(call.dims(call.arg(0, "self"))), call.arg(1, "repeats"), call.arg(2, "dim")
    if not isinstance(times, int) or dim is None or call.node.kwargs.get("output_size") is not None:
        call.give_up("repeated over all dimensions, or a number of times that is computed")
        return
    dims[dim] = algebra.merge([dims[dim], axes.new(times, call.reason("repeats of one unit"))])
    call.out(dims)


def repeat(call: Call) -> None:
    """``repeat(x, times)`` and ``tile``: whole copies one after the other; new dimensions in front."""
    dims, times = list(call.dims(call.arg(0, "self"))), _times(call)
    made = opaque(call.node.meta["val"], call.reason("copies"))
    rank = max(len(dims), len(times))
    dims = [axes.ONE] * (rank - len(dims)) + dims
    times = [1] * (rank - len(times)) + times
    call.out([_copies(call, d, n, new) for d, n, new in zip(dims, times, made, strict=True)])


def _times(call: Call) -> list[Any]:
    values: Sequence[Any] = call.arg(1, "repeats", call.arg(1, "dims"))
    return list(values)


def _copies(call: Call, dim: Dim, times: Any, new: Dim) -> Dim:
    if times == 1:
        return dim
    if axes.dim_size(dim) == 1 and not any(a.batch for a in axes.leaves(dim)):
        return new
    if not isinstance(times, int) or times < 1:
        call.pin(dim, "copied a number of times that is computed")
        return new
    return algebra.merge([axes.new(times, call.reason("copies")), dim])


def glu(call: Call) -> None:
    """``(x, dim)``: the first half times the sigmoid of the second, so both keep the same units."""
    dims = list(call.dims(call.arg(0, "self")))
    dim = call.arg(1, "dim", -1) % len(dims)
    half = axes.dim_size(dims[dim]) // 2
    parts = algebra.chunks(dims[dim], [half, half])
    if parts is None:
        call.pin(dims[dim], "glu cuts inside a factor")
        dims[dim] = axes.new(half, call.reason("glu cuts inside a factor"))
    else:
        call.unify(*parts)
        dims[dim] = parts[0]
    call.out(dims)
    call.row("elementwise", [], (dims[1], dims[1]), dims[2:])


_UPSAMPLE = [
    *(f"upsample_{kind}" for kind in ("nearest1d", "nearest2d", "nearest3d", "linear1d")),
    *(f"upsample_{kind}" for kind in ("bilinear2d", "bicubic2d", "trilinear3d")),
    *(f"_upsample_nearest_exact{n}d" for n in (1, 2, 3)),
    *(f"_upsample_{kind}2d_aa" for kind in ("bilinear", "bicubic", "lanczos")),
]

RULES: dict[str, Rule] = {
    "aten.pixel_shuffle.default": pixel_shuffle,
    "aten.pixel_unshuffle.default": pixel_unshuffle,
    "aten.channel_shuffle.default": channel_shuffle,
    "aten.native_channel_shuffle.default": channel_shuffle,
    "aten.repeat_interleave.self_int": repeat_interleave,
    "aten.repeat.default": repeat,
    "aten.tile.default": repeat,
    "aten.glu.default": glu,
    **{f"aten.{name}.{form}": pool for name in _UPSAMPLE for form in ("vec", "default")},
}
