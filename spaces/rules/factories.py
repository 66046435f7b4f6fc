"""New tensors of one value: their positions are free units until they meet others (as the initial state of a
recurrent net does), and the sizes in the call follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from niwaki.spaces import axes
from niwaki.spaces.axes import Dim
from niwaki.spaces.passes import Call, Rule, Size, opaque
from niwaki.spaces.rules.elementwise import shapeless, unary


def filled(call: Call) -> None:
    """``zeros(size)``, ``full(size, value)``..."""
    _make(call, 0)


def filled_beside(call: Call) -> None:
    """``new_zeros(x, size)``, ``new_full(x, size, value)``...: ``x`` gives only type and device."""
    call.dims(call.node.args[0])
    _make(call, 1)


def _make(call: Call, at: int) -> None:
    value = call.node.meta["val"]
    sizes: Sequence[Any] = call.arg(at, "size")
    if not value.dtype.is_floating_point or 0 in call.shape():
        return shapeless(call)
    dims: list[Dim] = [
        axes.new(size) if isinstance(size, int) else fixed
        for size, fixed in zip(sizes, opaque(value, "data"), strict=True)
    ]
    call.out(dims)
    literals = [Size(d) if isinstance(s, int) else s for s, d in zip(sizes, dims, strict=True)]
    call.rewrite(*call.node.args[:at], literals, *call.node.args[at + 1 :])
    return None


RULES: dict[str, Rule] = {
    **dict.fromkeys(("aten.zeros.default", "aten.ones.default", "aten.full.default"), filled),
    **dict.fromkeys(("aten.empty.memory_format",), filled),
    **{f"aten.new_{kind}.default": filled_beside for kind in ("zeros", "ones", "full", "empty")},
    **{f"aten.{kind}_like.default": unary for kind in ("zeros", "ones", "full", "empty")},
    **dict.fromkeys(
        (
            "aten.sym_numel.default",
            "aten.sym_stride.int",
            "aten.arange.start",
            "aten.arange.start_step",
            "aten.linspace.default",
            "aten.scalar_tensor.default",
        ),
        shapeless,
    ),
}
