"""Data flow in a traced graph: what a tensor is computed from, what dies without it, who writes into whose memory."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

from torch import fx

from niwaki.spaces.trace import Program

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
PRODUCTS = ("linear", "addmm", "mm", "matmul", "bmm", "baddbmm", "einsum", "bilinear", "scaled_dot_product_attention")
LOOKUPS = ("embedding", "embedding_bag")
LAYERS = {*CONVOLUTIONS, *PRODUCTS, *LOOKUPS, "lstm", "gru", "rnn_tanh", "rnn_relu"}
FACTORIES = {f"new_{kind}" for kind in ("zeros", "ones", "empty", "full")} | {
    f"{kind}_like" for kind in ("zeros", "ones", "empty", "full", "rand", "randn")
}
"""What takes the shape of a tensor, and nothing of its data."""


def base_name(node: fx.Node) -> str:
    """``conv2d`` of ``aten.conv2d.default``; '' for what is not an operation."""
    parts = str(node.target).split(".")
    return parts[1] if node.op == "call_function" and len(parts) == 3 else ""


def is_layer(node: fx.Node) -> bool:
    """Whether the operation does the work of a layer: a convolution, a product of matrices, a recurrence, a lookup."""
    return base_name(node) in LAYERS


def touched(node: fx.Node, write: bool) -> list[fx.Node]:
    """Arguments that the operation changes in place (``write``), or that its result is a view of."""
    if node.target is operator.getitem and not write:
        return list(node.all_input_nodes)
    found = []
    for i, argument in enumerate(getattr(getattr(node.target, "_schema", None), "arguments", ())):
        value = node.args[i] if i < len(node.args) else node.kwargs.get(argument.name)
        info = argument.alias_info
        if info is not None and info.is_write == write and isinstance(value, fx.Node):
            found.append(value)
    return found


def memory_of(node: fx.Node) -> fx.Node:
    """The node that made the memory which a view, or the result of an operation in place, lives in."""
    while sources := touched(node, True) + touched(node, False):
        node = sources[0]
    return node


class Flow:
    """Dominators and liveness of one program; only tensors that hold data count, not those that lend their shape."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.nodes = list(program.graph.nodes)
        self.inputs: dict[fx.Node, list[fx.Node]] = {}
        self._dominator: dict[fx.Node, fx.Node | None] = {}
        self._depth: dict[fx.Node, int] = {}
        for node in self.nodes:
            self._add(node)
        self.output = self.nodes[-1]
        self.live = self._ancestors(None, None)

    def _add(self, node: fx.Node) -> None:
        """Note a node that holds data: its inputs that do, and the nearest tensor that all of its data went through."""
        if node.op == "placeholder":
            if node.name in self.program.inputs:
                self.inputs[node], self._dominator[node], self._depth[node] = [], None, 0
            return
        inputs = [n for n in node.all_input_nodes if n in self.inputs]
        if node.op != "call_function" or not inputs or base_name(node) in FACTORIES or not _tensors(node):
            return
        over: fx.Node | None = inputs[0]
        for other in inputs[1:]:
            over = self._meet(over, other)
        self.inputs[node], self._dominator[node] = inputs, over
        self._depth[node] = 0 if over is None else self._depth[over] + 1

    def _meet(self, a: fx.Node | None, b: fx.Node | None) -> fx.Node | None:
        while a is not b:
            if a is None or b is None:
                return None
            if self._depth[a] >= self._depth[b]:
                a = self._dominator[a]
            else:
                b = self._dominator[b]
        return a

    def meeting_point(self, a: fx.Node, b: fx.Node) -> fx.Node | None:
        """The last tensor that everything in ``a`` and ``b`` was computed from; None where there is no such one."""
        return self._meet(a, b)

    def region(self, end: fx.Node, entry: fx.Node) -> set[fx.Node]:
        """Data on the way from ``entry`` (left out) to ``end`` (included)."""
        found: set[fx.Node] = set()
        todo = [end]
        while todo:
            node = todo.pop()
            if node is not entry and node not in found:
                found.add(node)
                todo.extend(self.inputs[node])
        return found

    def _ancestors(self, add: fx.Node | None, skip: fx.Node | None) -> set[fx.Node]:
        """Whatever the output needs, if ``add`` needs nothing but ``skip``."""
        found: set[fx.Node] = set()
        todo = [self.output]
        while todo:
            node = todo.pop()
            if node not in found:
                found.add(node)
                todo.extend([skip] if node is add and skip is not None else node.all_input_nodes)
        return found

    def dying(self, add: fx.Node, skip: fx.Node) -> set[fx.Node] | None:
        """Operations without a purpose once ``add`` is ``skip``, side effects included.

        None where one of them writes into a tensor that lives on: leaving it out would change that tensor.
        """
        alive = self._ancestors(add, skip)
        dead = {n for n in self.live - alive if n.op == "call_function"}
        for node in self.nodes:  # what only reads the dead and gives nothing to the output, such as writes to a mask
            if node not in self.live and any(i in dead for i in node.all_input_nodes):
                dead.add(node)
        dead |= self._counters(dead)
        for node in dead:
            for target in touched(node, True):
                memory = memory_of(target)
                if memory not in dead and memory.name not in self.program.keys:
                    return None
        return dead

    def _counters(self, nodes: Iterable[fx.Node]) -> set[fx.Node]:
        """Side effects of the same modules that read nothing computed: BatchNorm's count of batches."""
        calls = {_call(n) for n in nodes if any(i.name in self.program.keys for i in n.all_input_nodes)}
        return {
            n
            for n in self.nodes
            if n.op == "call_function"
            and not n.users
            and _call(n) in calls
            and all(i.op == "placeholder" for i in n.all_input_nodes)
        }


def _call(node: fx.Node) -> str:
    """Module path with the number of the call, where a module is called more than once."""
    stack = node.meta.get("nn_module_stack") or {}
    return list(stack)[-1] if stack else ""


def _tensors(node: fx.Node) -> bool:
    value: Any = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else [value]
    return any(hasattr(v, "shape") for v in values)
