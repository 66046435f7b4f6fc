"""Where in a traced graph a search acts: outputs whose widths are drawn, what keeps zeros, lines of blocks."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, fx

from niwaki.spaces import Space, axes
from niwaki.spaces.axes import Atom
from niwaki.spaces.blocks import Cone
from niwaki.spaces.flow import Flow, base_name, is_layer
from niwaki.spaces.trace import Program, shape_of

_ACTIVATIONS = {
    "relu", "relu_", "relu6", "relu6_", "leaky_relu", "leaky_relu_", "elu", "gelu", "silu", "silu_", "hardswish",
    "hardswish_", "tanh",
}  # fmt: skip
_KEEP_ZEROS = _ACTIVATIONS | {
    "mul", "mul_", "neg", "dropout", "dropout_", "view", "reshape", "flatten", "permute", "transpose", "unsqueeze",
    "squeeze", "expand", "contiguous", "clone", "slice", "select", "chunk", "split", "split_with_sizes", "unbind",
    "cat", "avg_pool2d", "adaptive_avg_pool2d", "max_pool2d", "mean", "sum", "roll",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Mix:
    """Units of one group in one output: where two widths of a variable are tried.

    Attributes:
        variable, choices: that decides, and its widths.
        dim: of the output.
        index: (units, span) positions of the units along ``dim``; None where they are all of it, in order.
        affine: key of the BatchNorm weight and of its bias, where the output is that of a BatchNorm over these units.
    """

    variable: str
    choices: tuple[int, ...]
    dim: int
    index: Tensor | None
    affine: tuple[str, str] | None


@dataclass(frozen=True, eq=False)
class Line:
    """The removable blocks of a stage; nodes are those of the traced graph.

    Attributes:
        stage, choices: the variable, and the depths on offer.
        cones: the blocks, first to last.
        between: for every block but the first, the operations from the end of the block before to its own shortcut;
            None where other layers stand between the blocks: their features cannot be had for every depth at once.
        tail: the activation that follows the last addition, where one does: it belongs to the feature.
    """

    stage: str
    choices: tuple[int, ...]
    cones: tuple[Cone, ...]
    between: tuple[tuple[fx.Node, ...], ...] | None
    tail: tuple[fx.Node, ...]

    @property
    def end(self) -> fx.Node:
        """Whose result is the output of the stage."""
        return self.tail[-1] if self.tail else self.cones[-1].add


def deciders(space: Space) -> dict[Atom, tuple[str, tuple[int, ...]]]:
    """Units of a group -> the variable that decides how many stay, and its widths; those with a choice alone."""
    found = {}
    for v in space.variables:
        if v.kind == "width" and len(v.choices) > 1:
            for name in space.members[v.name]:
                found[space.plan.atoms[name]] = (v.name, tuple(int(c) for c in v.choices))
    return found


def find_mixes(space: Space, program: Program) -> dict[fx.Node, tuple[Mix, ...]]:
    """Outputs of the layers that make units: after the BatchNorm where one follows directly, as in TAS's ConvBNReLU.

    Where no output is known to hold them (einsum, recurrent layers) it is the weight: for what is linear, the same.
    """
    analysis, decided = space.plan.analysis, deciders(space)
    found: dict[fx.Node, tuple[Mix, ...]] = {}
    holders = {program.keys[n.name]: n for n in program.graph.nodes if n.name in program.keys}
    seen: set[tuple[fx.Node, int]] = set()
    for producer, key, place in analysis.producers:
        if producer.graph is not program.graph or key in analysis.carriers:  # a depthwise filter passes units on
            continue
        node, channel = normaliser(producer) or producer, place
        if "niwaki_channel" in node.meta:
            channel = int(node.meta["niwaki_channel"]) % len(analysis.values[node][0])
        else:
            node = holders[key]
        if (node, channel) in seen:
            continue
        seen.add((node, channel))
        dims = analysis.values[node][0]
        size, mixes = axes.dim_size(dims[channel]), []
        for atom, index in axes.positions(dims[channel]).items():
            if index is not None and atom in decided:
                plain = torch.equal(index.flatten(), torch.arange(size)) and index.shape[1] == 1
                affine = _affine(node, program) if plain and node is normaliser(producer) else None
                mixes.append(Mix(*decided[atom], channel, None if plain else index, affine))
        if mixes:
            found[node] = (*found.get(node, ()), *mixes)
    return found


def normaliser(producer: fx.Node) -> fx.Node | None:
    """The BatchNorm that alone reads a layer's output, and normalises by the batch."""
    users = list(producer.users)
    follows = len(users) == 1 and str(users[0].target) == "aten.batch_norm.default"
    return users[0] if follows else None


def _affine(node: fx.Node, program: Program) -> tuple[str, str] | None:
    """Keys of the weight and bias of a BatchNorm in train mode; None where it has none, or is frozen."""
    names = [a.name for a in node.args[1:3] if isinstance(a, fx.Node) and a.name in program.keys]
    return (program.keys[names[0]], program.keys[names[1]]) if len(names) == 2 and node.args[5] is True else None


def find_clean(space: Space, program: Program, mixes: Mapping[fx.Node, tuple[Mix, ...]]) -> set[fx.Node]:
    """Operations whose results are zero at removed units by themselves, or read by a BatchNorm alone."""
    analysis, atoms = space.plan.analysis, set(space.plan.atoms.values())
    clean = {p for p, _, _ in analysis.producers if normaliser(p) in mixes}  # a BatchNorm alone reads these
    for node in program.graph.nodes:
        held = [a for dims in analysis.values.get(node, []) for d in dims for a in axes.leaves(d) if a in atoms]
        if not held or keeps_zeros(node) or len(set(held)) == len(held) == len(mixes.get(node, ())):
            clean.add(node)
    return clean


def keeps_zeros(node: fx.Node) -> bool:
    """Whether zeros in the operands (of an addition: at the same place in both) are zeros in the result."""
    name = base_name(node)
    if name in ("add", "add_", "sub", "sub_"):
        values = [a.meta.get("val") for a in node.args[:2] if isinstance(a, fx.Node)]
        shapes = [shape_of(v) for v in values if hasattr(v, "shape")]
        return len(shapes) == 2 and shapes[0] == shapes[1]
    return name in _KEEP_ZEROS or node.target is operator.getitem


def find_bare(space: Space, program: Program) -> set[fx.Node]:
    """Parameters with units that something else than a layer or a normaliser reads: position embeddings, tokens."""
    atoms = set(space.plan.atoms.values())

    def bare(user: fx.Node) -> bool:
        normal = base_name(user) == "batch_norm" or user in space.plan.analysis.over_kept
        return user.op == "call_function" and not is_layer(user) and not normal

    return {
        node
        for node in program.graph.nodes
        if node.name in program.keys and any(map(bare, node.users))
        and any(a in atoms for dims in space.plan.analysis.values.get(node, []) for d in dims for a in axes.leaves(d))
    }  # fmt: skip


def find_lines(space: Space, program: Program) -> tuple[Line, ...]:
    """Every stage whose depth is a choice."""
    flow, cones, lines = Flow(program), space.plan.cones[program.mode], []
    for v in space.variables:
        if v.kind == "depth":
            blocks = tuple(cones[name] for name in space.stages[v.name])
            paths = [_path(flow, a, b) for a, b in pairwise(blocks)]
            whole = tuple(p for p in paths if p is not None)
            between = whole if len(whole) == len(paths) else None
            users = list(blocks[-1].add.users)
            tail = tuple(users) if len(users) == 1 and base_name(users[0]) in _ACTIVATIONS else ()
            lines.append(Line(v.name, tuple(int(c) for c in v.choices), blocks, between, tail))
    return tuple(lines)


def _path(flow: Flow, before: Cone, after: Cone) -> tuple[fx.Node, ...] | None:
    """Operations that lead from the end of one block to the end of the next one's shortcut; None across layers."""
    if after.skip is before.add:
        return ()
    region = flow.region(after.skip, before.add)
    if any(is_layer(n) for n in region):
        return None
    nodes = _downstream(flow, before.add, (n for n in flow.nodes if n in region))
    return tuple(nodes) if after.skip in nodes else None


def _downstream(flow: Flow, start: fx.Node, nodes: Iterable[fx.Node]) -> list[fx.Node]:
    reached: list[fx.Node] = []
    for node in nodes:
        if any(i is start or i in reached for i in flow.inputs.get(node, [])):
            reached.append(node)
    return reached
