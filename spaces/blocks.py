"""Depth: residual blocks found in the graph as cones from ``x`` to ``add(x, f(x))``, grouped into stages."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from niwaki.spaces.trace import Program, module_path, shape_of
from niwaki.spaces.types import Block

ADDS = ("aten.add.Tensor", "aten.add_.Tensor")


@dataclass(frozen=True, eq=False)
class Cone:
    """A removable branch: ``add`` becomes ``skip``, and ``nodes`` (the branch) disappear."""

    name: str
    add: fx.Node
    skip: fx.Node
    nodes: frozenset[fx.Node]


def find_cones(program: Program) -> list[Cone]:
    """Every addition of equal shapes whose one side is computed from the other side (and parameters) alone."""
    found: list[Cone] = []
    for node in program.graph.nodes:
        if str(node.target) not in ADDS or len(node.args) < 2:
            continue
        a, b = node.args[0], node.args[1]
        if not (isinstance(a, fx.Node) and isinstance(b, fx.Node) and _same_shape(a, b)):
            continue
        for skip, branch in ((a, b), (b, a)):
            nodes = _branch(program, skip, branch)
            if nodes and all(u in nodes or u is node for n in nodes for u in n.users):
                found.append(Cone(_name(nodes, node), node, skip, frozenset(nodes | _counters(program, nodes))))
                break
    return _unique(found)


def _same_shape(a: fx.Node, b: fx.Node) -> bool:
    va, vb = a.meta.get("val"), b.meta.get("val")
    return hasattr(va, "shape") and hasattr(vb, "shape") and shape_of(va) == shape_of(vb)


def _branch(program: Program, skip: fx.Node, branch: fx.Node) -> set[fx.Node]:
    """Ancestors of ``branch`` up to ``skip``; empty if other data enters, or skip is never met or changed in place."""
    nodes: set[fx.Node] = set()
    todo, met = [branch], False
    while todo:
        node = todo.pop()
        if node is skip:
            met = True
            continue
        if node in nodes or (node.op == "placeholder" and node.name in program.keys):
            continue
        if node.op != "call_function":
            return set()
        if str(node.target) == "aten.sym_size.int":  # a shape, not data: every later view may read it
            continue
        if node.args and node.args[0] is skip and _in_place(node):
            return set()
        nodes.add(node)
        todo.extend(node.all_input_nodes)
    return nodes if met else set()


def _counters(program: Program, nodes: set[fx.Node]) -> set[fx.Node]:
    """Side effects that belong to the branch though nothing reads them: BatchNorm's count of batches."""
    calls = {_call_path(n) for n in nodes if any(i.name in program.keys for i in n.all_input_nodes)}
    return {
        n
        for n in program.graph.nodes
        if n.op == "call_function"
        and not n.users
        and _call_path(n) in calls
        and all(i.op == "placeholder" for i in n.all_input_nodes)
    }


def _call_path(node: fx.Node) -> str:
    """Module path with the number of the call, where a module is called more than once."""
    stack = node.meta.get("nn_module_stack") or {}
    return list(stack)[-1] if stack else ""


def _in_place(node: fx.Node) -> bool:
    return str(node.target).split(".")[1].endswith("_")


def _name(nodes: set[fx.Node], add: fx.Node) -> str:
    """The module that adds, where the branch lies within it; else the longest common module path of the branch."""
    paths = [module_path(n).split(".") for n in nodes]
    common = paths[0]
    for path in paths[1:]:
        k = next((i for i, (x, y) in enumerate(zip(common, path, strict=False)) if x != y), min(len(common), len(path)))
        common = common[:k]
    adder = module_path(add).split(".")
    if adder != [""] and common[: len(adder)] == adder:
        common = adder
    return ".".join(common) or f"branch_into_{add.name}"


def _unique(cones: list[Cone]) -> list[Cone]:
    counts: dict[str, int] = {}
    total = {c.name: sum(d.name == c.name for d in cones) for c in cones}
    out = []
    for cone in cones:
        k = counts[cone.name] = counts.get(cone.name, -1) + 1
        out.append(cone if total[cone.name] == 1 else Cone(f"{cone.name}#{k}", cone.add, cone.skip, cone.nodes))
    return out


def group_stages(cones: list[Cone], children: dict[str, set[str]]) -> tuple[tuple[Block, ...], dict[str, int]]:
    """Blocks in stages (each starts where the one before ends), and the least number of blocks each stage keeps.

    ``children``: module path -> names of its children that hold layers. A stage may lose all of its removable
    blocks only where something else is left of it; containers of a single child are looked through.
    """
    runs: list[list[Cone]] = []
    for cone in cones:
        if runs and _continues(runs[-1][-1], cone):
            runs[-1].append(cone)
        else:
            runs.append([cone])
    parents = [_parent(_outermost(run[0].name, children)) for run in runs]
    blocks: list[Block] = []
    least: dict[str, int] = {}
    for run, parent in zip(runs, parents, strict=True):
        stage = parent if parent and parents.count(parent) == 1 else run[0].name
        members = {_outermost(c.name, children).rsplit(".", 1)[-1] for c in run}
        least[stage] = 0 if children.get(parent, set()) - members else 1
        blocks.extend(Block(c.name, stage, i) for i, c in enumerate(run))
    return tuple(blocks), least


def _parent(name: str) -> str:
    return name.rsplit(".", 1)[0] if "." in name else ""


def _outermost(name: str, children: dict[str, set[str]]) -> str:
    """The block's path without containers that hold nothing else."""
    path = name.split("#", maxsplit=1)[0]
    while "." in path and len(children.get(_parent(path), set())) == 1:
        path = _parent(path)
    return path


def _continues(previous: Cone, cone: Cone) -> bool:
    """Whether the skip path leads from the end of ``previous`` through parameter-free operations only."""
    node = cone.skip
    while node is not previous.add:
        inputs = node.all_input_nodes
        if node.op != "call_function" or len(inputs) != 1:
            return False
        node = inputs[0]
    return _parent(previous.name) == _parent(cone.name)
