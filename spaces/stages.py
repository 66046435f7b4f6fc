"""Stages: which removable blocks stand in one line, so that keeping the first k of them is one decision.

A stage is a chain of blocks, each starting where the one before ends, that differ in one index of their names:
``layer1.0, layer1.1`` are stage ``layer1``. Branches of one layer are decided apart: ``encoder.layers.0.self_attn`` and
``encoder.layers.1.self_attn`` are stage ``encoder.layers/self_attn``, the MLPs of the same layers another one.
A block whose shortcut projects starts a chain: it is the first of its stage and goes last.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from math import prod

from torch import fx

from niwaki.spaces.blocks import Cone
from niwaki.spaces.flow import is_layer
from niwaki.spaces.trace import shape_of
from niwaki.spaces.types import Block

Children = Mapping[str, Set[str]]


def group_stages(cones: list[Cone], children: Children) -> tuple[tuple[Block, ...], dict[str, int]]:
    """Blocks in stages, and the least number of blocks each stage keeps.

    ``children``: module path -> names of its children that hold layers. A stage may lose all of its removable
    blocks only where something else is left of it: another child of the same container, or a projection.
    """
    stages = [s for chain in _chains(cones) for s in _split(chain)]
    taken = [(s.container, s.role) for s in stages]
    blocks: list[Block] = []
    least: dict[str, int] = {}
    for stage in stages:
        name = stage.name(taken)
        name = stage.cones[0].name if name in least else name
        least[name] = 0 if stage.cones[0].projects or _leaves_something(stage, children) else 1
        blocks.extend(Block(c.name, name, i) for i, c in enumerate(stage.cones))
    return tuple(blocks), least


@dataclass(frozen=True, eq=False)
class _Stage:
    """Blocks in a line: ``container`` is the path up to the index that counts them, ``members`` the indices met in
    the chain (branches of the same layers included), ``role`` the path after the index."""

    cones: list[Cone]
    container: str
    role: str
    members: set[str]

    def name(self, taken: list[tuple[str, str]]) -> str:
        """The container, with the role where a container holds several stages; else the first block's name."""
        if self.container and [c for c, _ in taken].count(self.container) == 1:
            return self.container
        alone = self.container and self.role and taken.count((self.container, self.role)) == 1
        return f"{self.container}/{self.role}" if alone else self.cones[0].name


def _leaves_something(stage: _Stage, children: Children) -> bool:
    """Whether anything else is in the stage's container, or in the one around a container that holds nothing else."""
    container, members = stage.container, stage.members
    while container and len(children.get(container, set())) == 1:
        container, _, last = container.rpartition(".")
        members = {last}
    return bool(children.get(container, set()) - members)


def _chains(cones: list[Cone]) -> list[list[Cone]]:
    chains: list[list[Cone]] = []
    last: dict[fx.Node, list[Cone]] = {}
    for cone in cones:
        before = None if cone.projects else _previous(cone, last)
        chain = last.pop(before) if before is not None else []
        if not chain:
            chains.append(chain)
        chain.append(cone)
        last[cone.add] = chain
    return chains


def _previous(cone: Cone, ends: Mapping[fx.Node, list[Cone]]) -> fx.Node | None:
    """The addition that the block follows, through nothing but normalisers, activations, partitions into windows."""
    node, size = cone.entry, _numel(cone.entry)
    while node not in ends:
        inputs = [n for n in node.all_input_nodes if n.op == "call_function" and _numel(n)]
        if is_layer(node) or len(inputs) != 1 or _numel(node) != size:
            return None
        node = inputs[0]
    return node


def _numel(node: fx.Node) -> int:
    """Elements of the (single) tensor a node returns; 0 for anything else."""
    value = node.meta.get("val")
    return prod(shape_of(value)) if hasattr(value, "shape") else 0


def _split(chain: list[Cone]) -> list[_Stage]:
    """A chain by what its blocks are: names that differ in their index alone are of one kind."""
    place = _index(chain)
    kinds: dict[str, list[Cone]] = {}
    for cone in chain:
        kinds.setdefault(_without(cone, place), []).append(cone)
    members = {p[place] for p in map(_parts, chain) if _indexed(p, place)}
    stages = []
    for cones in kinds.values():
        parts = _parts(cones[0])
        if _indexed(parts, place):
            stages.append(_Stage(cones, ".".join(parts[:place]), ".".join(parts[place + 1 :]), members))
        else:
            stages.append(_Stage(cones, ".".join(parts[:-1]), "", {parts[-1]}))
    return stages


def _index(chain: list[Cone]) -> int:
    """Which part of the names counts the blocks: the one that leaves the fewest kinds; the last index of a lone one."""
    names = [_parts(c) for c in chain]
    places = [i for i in range(max(map(len, names))) if any(_indexed(n, i) for n in names)]
    kinds = {i: len({_without(c, i) for c in chain}) for i in places}
    fewest = min(kinds.values(), default=len(chain))
    if fewest < len(chain):
        return min(i for i in places if kinds[i] == fewest)
    return places[-1] if places else 0


def _indexed(parts: list[str], place: int) -> bool:
    return place < len(parts) and "+" not in parts[place] and any(c.isdigit() for c in parts[place])


def _without(cone: Cone, place: int) -> str:
    parts = _parts(cone)
    return ".".join([*parts[:place], "*", *parts[place + 1 :]]) if _indexed(parts, place) else cone.name


def _parts(cone: Cone) -> list[str]:
    """The name's parts; the number of a call is one too."""
    return cone.name.replace("#", ".#").split(".")
