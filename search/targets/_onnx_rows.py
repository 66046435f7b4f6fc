"""Which operation of a space's layer rows an ONNX node belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from onnx import NodeProto

from niwaki.spaces.space import Space

KeyOf = Callable[[str], str | None]
"""Name of a constant of an ONNX file -> its state-dict key or the exporter's name; None for other tensors."""


def direct_rows(space: Space, nodes: Sequence[NodeProto], key: KeyOf) -> dict[str, str]:
    """ONNX node -> row, for the nodes that compute with parameters, at full depth.

    By the parameters that a node reads; products of two activations in step with their rows; a product whose bias is
    added next like that addition.
    """
    program = space.plan.programs["eval"]
    rows = [r for r in space.plan.analysis.rows if r.node.graph is program.graph]
    reader: dict[str, str] = {}
    for row in rows:
        for source in row.node.all_input_nodes:
            if source.name in program.keys:
                reader.setdefault(program.keys[source.name], row.node.name)
    found: dict[str, str] = {}
    for node in nodes:
        keys = [key(name) or "" for name in node.input]
        if known := [reader[k] for k in keys if k in reader]:
            found[node.name] = known[0]
    _products(nodes, key, [r.node.name for r in rows if r.op == "matmul"], found)
    return found


def _products(nodes: Sequence[NodeProto], key: KeyOf, rows: list[str], found: dict[str, str]) -> None:
    """MatMul nodes without the name of a parameter."""
    free = []
    users: dict[str, list[NodeProto]] = {}
    for node in nodes:
        for name in node.input:
            users.setdefault(name, []).append(node)
    for node in nodes:
        if node.op_type != "MatMul" or node.name in found:
            continue
        after = users.get(node.output[0], [])
        if all(key(name) is None for name in node.input):
            free.append(node)
        elif len(after) == 1 and after[0].op_type == "Add" and after[0].name in found:
            found[node.name] = found[after[0].name]
    if len(free) == len(rows):
        found.update({node.name: row for node, row in zip(free, rows, strict=True)})


def all_rows(nodes: Sequence[NodeProto], direct: Mapping[str, str]) -> dict[str, str]:
    """ONNX node -> row: what has none of its own belongs to what computes its input, the last where there are several;
    at the very start to the first row."""
    row: dict[str, tuple[int, str]] = {}
    names = {}
    first = next((direct[n.name] for n in nodes if n.name in direct), "")
    for i, node in enumerate(nodes):
        before = max((row[name] for name in node.input if name in row), default=(0, first))
        mine = (i, direct[node.name]) if node.name in direct else before
        row.update(dict.fromkeys(node.output, mine))
        names[node.name] = mine[1]
    return names
