"""Linear layers, and how dimensions broadcast."""

from __future__ import annotations

from niwaki.spaces import axes
from niwaki.spaces.passes import Call, Rule


def linear(call: Call) -> None:
    """``(x (..., I), weight (O, I), bias (O))``."""
    x, weight, bias = call.arg(0, "input"), call.arg(1, "weight"), call.arg(2, "bias")
    xd, wd = call.dims(x), call.dims(weight)
    call.unify(xd[-1], wd[1])
    call.layer(weight, produces=0, consumes=1, channel=len(xd) - 1)
    if bias is not None:
        call.unify(call.dims(bias)[0], wd[0])
        call.carries(bias)
    call.out([*xd[:-1], wd[0]])
    call.row("linear", [*xd[:-1], *wd], (wd[1], wd[0]), xd[1:-1], weight=call.key(weight))


def broadcast(call: Call, *operands: list[axes.Dim]) -> list[axes.Dim]:
    """Unify right-aligned dimensions; a size of 1 meets anything."""
    rank = max(len(o) for o in operands)
    result: list[axes.Dim] = []
    for i in range(1, rank + 1):
        real = [o[-i] for o in operands if len(o) >= i and axes.dim_size(o[-i]) != 1]
        for other in real[1:]:
            call.unify(real[0], other)
        result.insert(0, real[0] if real else axes.ONE)
    return result


RULES: dict[str, Rule] = {
    "aten.linear.default": linear,
}
