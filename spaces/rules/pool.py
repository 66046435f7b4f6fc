"""Pooling and interpolation: batch and channels flow, space is new data."""

from __future__ import annotations

import re

from niwaki.spaces.passes import Call, Rule


def pool(call: Call) -> None:
    """All pools over ``(..., *space)``, what is before space flows; the form with indices returns two results."""
    dims = call.dims(call.arg(0, "self", call.arg(0, "input")))
    first = len(dims) - int(re.findall(r"(\d)d", str(call.node.target))[0])
    for dim in dims[first:]:
        call.pin(dim, f"{call.node.target} slides over it")
    results = [[*dims[:first], *[call.data(s) for s in shape[first:]]] for shape in call.shapes()]
    call.out(*results)
    call.row("pool", [], (dims[first - 1], dims[first - 1]), results[0][first:])


RULES: dict[str, Rule] = {
    **{f"aten.{kind}_pool{n}d.default": pool for kind in ("max", "avg", "adaptive_avg") for n in (1, 2, 3)},
    **{f"aten.adaptive_max_pool{n}d.default": pool for n in (2, 3)},
    **{f"aten.max_pool{n}d_with_indices.default": pool for n in (2, 3)},
    **{
        f"aten.upsample_{kind}.vec": pool
        for kind in ("nearest2d", "bilinear2d", "bicubic2d", "nearest1d", "nearest3d", "trilinear3d")
    },
}
