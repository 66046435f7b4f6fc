"""Depth: branches that may be removed, found in the graph as ``add(p(x), f(x))`` with a shortcut ``p`` that stays.

What counts is the data flow alone: both sides of an addition of equal shapes come from one tensor ``x``, they share
nothing on the way, and nothing of ``f`` is used elsewhere. ``p`` is the side with fewer layers: nothing at all
(identity), padding or pooling (option A), or a projection. DenseNets, which concatenate, have no such branch; two
sides with as many layers are branches of equal rank, and neither is offered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from niwaki.spaces.flow import Flow, is_layer
from niwaki.spaces.trace import Program, module_path, shape_of

ADDS = ("aten.add.Tensor", "aten.add_.Tensor")
SHORTCUT_LAYERS = 2
"""A shortcut has at most a projection and a blur; with more it is a branch in its own right."""


@dataclass(frozen=True, eq=False)
class Cone:
    """A removable branch: ``add`` becomes ``skip``, and ``nodes`` (the branch) disappear.

    Attributes:
        name: the module that holds the branch and the addition, else the module that is the branch, else its parts:
            ``layer1.0``, ``encoder.layers.0.self_attention``, ``layers.0.linear1+linear2``. Same in both modes.
        skip: the shortcut's end, ``p(x)``.
        entry: ``x``.
        nodes: every operation without a purpose once the branch is gone.
        projects: the shortcut has layers or changes the shape.
        whole: ``name`` is a module that gives its input back once the branch is gone: nn.Identity can stand in for it.
    """

    name: str
    add: fx.Node
    skip: fx.Node
    entry: fx.Node
    nodes: frozenset[fx.Node]
    projects: bool
    whole: bool


def find_cones(program: Program) -> list[Cone]:
    """Every removable branch, in the order of the graph."""
    flow = Flow(program)
    working = {n for n in flow.nodes if is_layer(n)}
    layers = {module_path(n) for n in working}
    found = [cone for add in flow.nodes if str(add.target) in ADDS and (cone := _cone(flow, add, layers)) is not None]
    return _unique([c for c in found if working - c.nodes])  # a skip past the whole network is no block


def _cone(flow: Flow, add: fx.Node, layers: set[str]) -> Cone | None:
    a, b = add.args[0], add.args[1]
    if not (isinstance(a, fx.Node) and isinstance(b, fx.Node) and a in flow.inputs and b in flow.inputs):
        return None
    entry = flow.meeting_point(a, b)
    if entry is None or not (_same(a, add) and _same(b, add)):
        return None
    sides = sorted(((flow.region(s, entry), s) for s in (a, b)), key=lambda side: _layers(side[0]))
    (shortcut, skip), (branch, _) = sides
    if shortcut & branch or not _layers(shortcut) < _layers(branch) or _layers(shortcut) > SHORTCUT_LAYERS:
        return None
    if skip is b and add.kwargs.get("alpha", 1) != 1:
        return None
    nodes = flow.dying(add, skip)
    if nodes is None or not branch <= nodes:
        return None
    name = _name(add, branch, shortcut, layers)
    whole = skip is entry and "+" not in name and _within(module_path(add), name)
    projects = _layers(shortcut) > 0 or not _same(skip, entry)
    return Cone(name, add, skip, entry, frozenset(nodes), projects, whole)


def _same(a: fx.Node, b: fx.Node) -> bool:
    va: Any = a.meta.get("val")
    vb: Any = b.meta.get("val")
    return hasattr(va, "shape") and hasattr(vb, "shape") and shape_of(va) == shape_of(vb) and va.dtype == vb.dtype


def _layers(nodes: set[fx.Node]) -> int:
    return sum(is_layer(n) for n in nodes)


def _within(path: str, module: str) -> bool:
    return not module or path == module or path.startswith(f"{module}.")


def _name(add: fx.Node, branch: set[fx.Node], shortcut: set[fx.Node], layers: set[str]) -> str:
    """The outermost module, up to the one that adds, whose layers all belong to this block; see :class:`Cone`."""
    mine = [module_path(n) for n in add.graph.nodes if n in branch and is_layer(n)]
    foreign = layers - set(mine) - {module_path(n) for n in shortcut}
    adder = module_path(add)

    def pure(module: str) -> bool:
        return bool(module) and not any(_within(f, module) for f in foreign)

    name = _common(mine)
    if not pure(name):
        parts = [path[len(name) :].strip(".").split(".")[0] for path in mine]
        return ".".join(p for p in (name, "+".join(dict.fromkeys(p for p in parts if p))) if p) or f"into_{add.name}"
    while name != adder and _within(name, adder) and pure(_parent(name)):
        name = _parent(name)
    return name


def _common(paths: list[str]) -> str:
    """The longest module path that all paths lie within."""
    common = paths[0]
    while not all(_within(p, common) for p in paths):
        common = _parent(common)
    return common


def _parent(name: str) -> str:
    return name.rsplit(".", 1)[0] if "." in name else ""


def _unique(cones: list[Cone]) -> list[Cone]:
    """Blocks of a module that runs several times are numbered, and can only go by themselves in the graph."""
    counts: dict[str, int] = {}
    names = [c.name for c in cones]
    out = []
    for cone in cones:
        k = counts[cone.name] = counts.get(cone.name, -1) + 1
        several = names.count(cone.name) > 1
        out.append(replace(cone, name=f"{cone.name}#{k}", whole=False) if several else cone)
    return out
