"""Tables of learned vectors: the width of a row flows, the rows are data because indices name them."""

from __future__ import annotations

from niwaki.spaces import axes
from niwaki.spaces.passes import Call, Rule, opaque, results_of


def embedding(call: Call) -> None:
    """``(weight (V, D), indices)`` -> ``(*indices, D)``."""
    weight = call.arg(0, "weight")
    rows, width = call.dims(weight)
    call.pin(rows, "rows of an embedding are named by the data")
    indices = call.dims(call.arg(1, "indices"))
    _makes(call, weight)
    call.node.meta["niwaki_channel"] = len(indices)
    call.out([*indices, width])
    call.row("elementwise", [], (axes.ONE, width), indices[1:])


def embedding_bag(call: Call) -> None:
    """``(weight (V, D), indices, offsets, ...)`` -> ``(bags, D)`` and three results of bookkeeping."""
    weight = call.arg(0, "weight")
    rows, width = call.dims(weight)
    call.pin(rows, "rows of an embedding are named by the data")
    for value in call.node.all_input_nodes:
        call.dims(value)
    _makes(call, weight)
    bags, *rest = [opaque(v, "data") for v in results_of(call.node)]
    call.out([bags[0], width], *rest)


def _makes(call: Call, weight: object) -> None:
    """The table makes units along its second dimension; nothing is consumed, for indices are no units."""
    key = call.key(weight)
    if key is not None:
        call.analysis.producers.append((call.node, key, 1))


RULES: dict[str, Rule] = {
    "aten.embedding.default": embedding,
    "aten.embedding_bag.default": embedding_bag,
    "aten.embedding_bag.padding_idx": embedding_bag,
}
