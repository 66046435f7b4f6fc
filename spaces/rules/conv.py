"""Convolutions: dense, grouped, depthwise, with a multiplier, transposed."""

from __future__ import annotations

from math import prod

from niwaki.spaces import algebra, axes
from niwaki.spaces.passes import Call, Rule, Size


def conv(call: Call) -> None:
    """``(x, weight (O, I/g, *k), bias, stride, padding, dilation, groups)``; also the ``.padding`` (string) form."""
    x, weight, bias = call.arg(0, "input"), call.arg(1, "weight"), call.arg(2, "bias")
    groups = call.arg(6, "groups", 1)
    xd, wd = call.dims(x), call.dims(weight)
    space = places(call, xd)
    channels_in, channels_out = xd[1], wd[0]
    group_dim = axes.ONE
    if groups == 1:
        call.unify(channels_in, wd[1])
        call.layer(weight, produces=0, consumes=1, channel=1)
    else:
        group_dim = _grouped(call, channels_in, wd, groups)
        call.layer(weight, produces=0, consumes=1, channel=1)
        if axes.dim_size(wd[1]) == 1:
            call.carries(weight)
        rest = (*call.node.args[:6], Size(group_dim)) if len(call.node.args) > 6 else None
        if rest is None:
            call.pin(group_dim, "groups given by keyword")
        else:
            call.rewrite(*rest)
    if bias is not None:
        call.unify(call.dims(bias)[0], channels_out)
        call.carries(bias)
    call.out([xd[0], channels_out, *space])
    kernel = wd[2:]
    stride = call.arg(3, "stride", 1)
    call.row(
        "conv",
        [xd[0], *wd, *space],
        (channels_in, channels_out),
        space,
        kernel=prod(axes.dim_size(k) for k in kernel),
        stride=stride[0] if isinstance(stride, (list, tuple)) else stride,
        groups=group_dim,
        weight=call.key(weight),
    )


def places(call: Call, dims: list[axes.Dim]) -> list[axes.Dim]:
    """What the operation makes of the dimensions after the channels; those it slides over may be units elsewhere."""
    for dim in dims[2:]:
        call.pin(dim, f"{call.node.target} slides over it")
    return [call.data(s) for s in call.shape()[2:]]


def _grouped(call: Call, channels_in: axes.Dim, wd: list[axes.Dim], groups: int) -> axes.Dim:
    """Tie input, weight and groups; returns the dimension that counts the groups."""
    width_in = axes.dim_size(channels_in) // groups
    width_out = axes.dim_size(wd[0]) // groups
    if width_in == 1 and width_out == 1:
        call.unify(channels_in, wd[0])
        return wd[0]
    if width_in == 1:  # depthwise with a multiplier: its factor is not worth offering
        call.unify(wd[0], algebra.merge([channels_in, axes.new(width_out, "channel multiplier")]))
        return channels_in
    group_dim = axes.new(groups)
    call.unify(channels_in, algebra.merge([group_dim, wd[1]]))
    call.unify(wd[0], algebra.merge([group_dim, axes.new(width_out)]))
    return group_dim


def conv_transpose(call: Call) -> None:
    """``(x, weight (I, O/g, *k), bias, stride, padding, output_padding, groups, dilation)``."""
    x, weight, bias = call.arg(0, "input"), call.arg(1, "weight"), call.arg(2, "bias")
    groups, xd, wd = call.arg(6, "groups", 1), call.dims(x), call.dims(weight)
    call.unify(xd[1], wd[0])
    call.layer(weight, produces=1, consumes=0, channel=1)
    group_dim, channels_out = (axes.ONE, wd[1]) if groups == 1 else _grouped_transpose(call, wd, groups)
    if bias is not None:
        call.unify(call.dims(bias)[0], channels_out)
        call.carries(bias)
    call.out([xd[0], channels_out, *places(call, xd)])
    call.row(
        "conv",
        [xd[0], *wd, *xd[2:]],
        (xd[1], channels_out),
        list(xd[2:]),
        kernel=prod(axes.dim_size(k) for k in wd[2:]),
        groups=group_dim,
        weight=call.key(weight),
    )


def _grouped_transpose(call: Call, wd: list[axes.Dim], groups: int) -> tuple[axes.Dim, axes.Dim]:
    """The dimension that counts the groups, and the output's: every group of inputs makes ``O/g`` outputs."""
    width_in = axes.dim_size(wd[0]) // groups
    group_dim = wd[0] if width_in == 1 else axes.new(groups)
    if width_in > 1:
        call.unify(wd[0], algebra.merge([group_dim, axes.new(width_in)]))
    else:
        call.carries(call.arg(1, "weight"))
        call.pin(wd[1], "channel multiplier")
    if len(call.node.args) > 6:
        call.rewrite(*call.node.args[:6], Size(group_dim), *call.node.args[7:])
    else:
        call.pin(group_dim, "groups given by keyword")
    return group_dim, algebra.merge([group_dim, wd[1]])


RULES: dict[str, Rule] = {
    **{f"aten.conv{n}d.{form}": conv for n in (1, 2, 3) for form in ("default", "padding")},
    **{f"aten.conv_transpose{n}": conv_transpose for n in ("1d.default", "2d.input", "3d.input")},
}
