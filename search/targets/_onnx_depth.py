"""Removable blocks of a space in an ONNX graph: where each one's branch is added to its shortcut."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from onnx import NodeProto

from niwaki.search.targets._onnx_fit import Blueprint
from niwaki.search.targets._onnx_graph import TemplateError, alive
from niwaki.spaces.space import Space

IDEMPOTENT = ("Relu",)
"""Operations that the exporter runs once where a removed block leaves them twice in a row."""


@dataclass(frozen=True)
class Exit:
    """The addition that ends a block, and the tensor on its other side."""

    add: str
    skip: str


def find_exits(space: Space, blueprint: Blueprint) -> dict[str, Exit]:
    """Removable block -> its addition: the first that has all of the block's weights on one side, none on the other.

    Raises:
        TemplateError: a block without weights of its own, or without such an addition.
    """
    users = space.plan.users()
    exits = {}
    for block in space.blocks:
        mine = {key for key, sets in users.items() if sets and all(block.name in s for s in sets)}
        owned = [i for i, n in enumerate(blueprint.nodes) if any(blueprint.key(name) in mine for name in n.input)]
        found = _exit(blueprint, owned) if owned else None
        if found is None:
            raise TemplateError(f"block {block.name!r}: the addition that ends it was not found")
        exits[block.name] = found
    return exits


def _exit(blueprint: Blueprint, owned: list[int]) -> Exit | None:
    number = {node: bit for bit, node in enumerate(owned)}
    everything = (1 << len(owned)) - 1
    seen: dict[str, int] = {}
    for i, node in enumerate(blueprint.nodes):
        sides = [seen.get(name, 0) for name in node.input]
        if node.op_type == "Add" and not any(name in blueprint.constants for name in node.input):
            for side, other in ((0, 1), (1, 0)):
                if sides[side] == everything and not sides[other]:
                    return Exit(node.output[0], node.input[other])
        covered = 1 << number[i] if i in number else 0
        for side in sides:
            covered |= side
        seen.update(dict.fromkeys(node.output, covered))
    return None


def without(nodes: Iterable[NodeProto], gone: Iterable[Exit], outputs: list[str]) -> list[NodeProto]:
    """Copies of the nodes that are left, in order, when each addition becomes its skip."""
    stands_for = {e.add: e.skip for e in gone}
    kept = []
    made: dict[str, NodeProto] = {}
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        for slot, name in enumerate(node.input):
            copy.input[slot] = _root(name, stands_for)
        if copy.output[0] in stands_for:
            continue
        before = made.get(copy.input[0]) if copy.input else None
        if copy.op_type in IDEMPOTENT and before is not None and before.op_type == copy.op_type:
            stands_for[copy.output[0]] = copy.input[0]
            continue
        made.update(dict.fromkeys(copy.output, copy))
        kept.append(copy)
    if missing := [name for name in outputs if name in stands_for]:
        raise TemplateError(f"output {missing[0]!r} is the end of a block that can be removed")
    return alive(kept, outputs)


def _root(name: str, stands_for: dict[str, str]) -> str:
    while name in stands_for:
        name = stands_for[name]
    return name
