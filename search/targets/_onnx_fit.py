"""From ONNX files of a few candidates of one space to the rules that give any other's sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from niwaki.search.targets._onnx_graph import Array, Network, TemplateError, attributes, tensor
from niwaki.search.targets._onnx_sizes import Sizes, Term
from niwaki.spaces.space import Space

LISTED = 64
"""Integer constants of at most this many elements are shapes and bounds, understood one by one."""
Rule = Term | tuple[Term, ...]


@dataclass(frozen=True)
class Constant:
    """A constant: the first ``dims`` places of the largest candidate's ``source``, or the integers ``values``."""

    source: str
    dims: tuple[Term, ...]
    values: tuple[Term, ...] = ()

    def __call__(self, whole: Array, sizes: list[int]) -> Array:
        if self.values:
            return np.array([v(sizes) for v in self.values], dtype=whole.dtype).reshape(whole.shape)
        return whole[tuple(slice(d(sizes)) for d in self.dims)]


@dataclass(eq=False)
class Blueprint:
    """Nodes whose constants have names of their own, what those constants are, and attributes that change."""

    nodes: list[NodeProto]
    arrays: dict[str, Array]
    constants: dict[str, Constant] = field(default_factory=dict)
    rules: dict[int, dict[str, Rule]] = field(default_factory=dict)

    def key(self, name: str) -> str | None:
        """State-dict key of a constant, or the exporter's name for it; None for a tensor that is computed."""
        return self.constants[name].source if name in self.constants else None

    def initializer(self, name: str, sizes: list[int]) -> TensorProto:
        """A constant of the candidate with these sizes."""
        constant = self.constants[name]
        return tensor(name, constant(self.arrays[constant.source], sizes))

    def resize(self, node: NodeProto, index: int, sizes: list[int]) -> None:
        """Give ``node``, a copy of node ``index``, the attributes of the candidate with these sizes."""
        for attribute in node.attribute:
            rule = self.rules.get(index, {}).get(attribute.name)
            if rule is not None:
                value = [t(sizes) for t in rule] if isinstance(rule, tuple) else rule(sizes)
                attribute.CopyFrom(helper.make_attribute(attribute.name, value))


class Fit:
    """Fits a blueprint to the files of ``sizes.fitted``, the largest candidate's first."""

    def __init__(self, space: Space, sizes: Sizes, networks: list[Network]) -> None:
        self.space = space
        self.sizes = sizes
        self.networks = networks
        self.largest = networks[0]

    def blueprint(self) -> Blueprint:
        """Raises TemplateError naming the node where the files differ in more than sizes, or nobody knows the size."""
        for network in self.networks[1:]:
            self._align(network)
        nodes = []
        for node in self.largest.nodes:
            copy = NodeProto()
            copy.CopyFrom(node)
            copy.ClearField("metadata_props")
            nodes.append(copy)
        made = Blueprint(nodes, self.largest.arrays)
        names: dict[Constant, str] = {}
        for index, slot, source in self.largest.sites():
            constant = self._constant(index, slot, source)
            if constant not in names:
                taken = {n for c, n in names.items() if c.source == source}
                names[constant] = f"{source}__{len(taken)}" if taken else source
                made.constants[names[constant]] = constant
            nodes[index].input[slot] = names[constant]
        for index in range(len(nodes)):
            if rules := self._rules(index):
                made.rules[index] = rules
        return made

    def _align(self, other: Network) -> None:
        mine = [n.op_type for n in self.largest.nodes]
        theirs = [n.op_type for n in other.nodes]
        if mine != theirs:
            at = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), -1)
            raise TemplateError(
                f"candidates are exported to different operations: {len(mine)} and {len(theirs)}, "
                f"from {self.largest.nodes[at].name!r} on"
            )
        for a, b in zip(self.largest.nodes, other.nodes, strict=True):
            forms = [[name in n.arrays if name else None for name in node.input]
                     for n, node in ((self.largest, a), (other, b))]
            if forms[0] != forms[1] or {x.name for x in a.attribute} != {x.name for x in b.attribute}:
                raise TemplateError(f"candidates are exported to different forms of {a.op_type} {a.name!r}")

    def _constant(self, index: int, slot: int, source: str) -> Constant:
        arrays = [n.arrays[n.nodes[index].input[slot]] for n in self.networks]
        whole = arrays[0]
        where = f"{self.largest.nodes[index].op_type} {self.largest.nodes[index].name!r}, constant {source!r}"
        if any(a.ndim != whole.ndim or a.dtype != whole.dtype for a in arrays):
            raise TemplateError(f"{where}: of different ranks or types")
        dims = self._named(source, arrays) or tuple(
            self._term([a.shape[i] for a in arrays], index, f"{where}, dimension {i}") for i in range(whole.ndim)
        )
        if not np.issubdtype(whole.dtype, np.integer):
            return Constant(source, dims)
        if all(np.array_equal(a, whole[tuple(map(slice, a.shape))]) for a in arrays):
            return Constant(source, dims)
        if whole.size > LISTED or any(a.shape != whole.shape for a in arrays):
            raise TemplateError(f"{where}: indices that depend on the widths")
        listed = zip(*(a.ravel().tolist() for a in arrays), strict=True)
        terms = tuple(self._term(list(v), index, f"{where}, element {i}") for i, v in enumerate(listed))
        return Constant(source, dims, terms)

    def _named(self, source: str, arrays: list[Array]) -> tuple[Term, ...] | None:
        """The dimensions of a parameter, where the constant has kept its name and shape."""
        dims = self.space.plan.analysis.tensors.get(source)
        if dims is None or len(dims) != arrays[0].ndim:
            return None
        numbers = [self.sizes.number(d) for d in dims]
        known = [[self._fitted[j][n] for n in numbers] for j in range(len(arrays))]
        return tuple(Term(1, (n,)) for n in numbers) if known == [list(a.shape) for a in arrays] else None

    @property
    def _fitted(self) -> list[list[int]]:
        if not hasattr(self, "_known"):
            self._known = [self.sizes.of(c) for c in self.sizes.fitted]
        return self._known

    def _rules(self, index: int) -> dict[str, Rule]:
        node = self.largest.nodes[index]
        values = [attributes(n.nodes[index]) for n in self.networks]
        rules: dict[str, Rule] = {}
        for name, mine in values[0].items():
            theirs = [v[name] for v in values]
            if all(t == mine for t in theirs) or isinstance(mine, float):
                continue
            where = f"{node.op_type} {node.name!r}, attribute {name!r}"
            if isinstance(mine, int):
                rules[name] = self._term(theirs, index, where)
            elif isinstance(mine, list) and all(isinstance(x, int) for x in mine) and len({*map(len, theirs)}) == 1:
                rules[name] = tuple(self._term(list(v), index, where) for v in zip(*theirs, strict=True))
            else:
                raise TemplateError(f"{where}: depends on the widths")
        return rules

    def _term(self, values: list[Any], index: int, where: str) -> Term:
        found = self.sizes.find(tuple(int(v) for v in values), index / len(self.largest.nodes))
        if found is None:
            raise TemplateError(f"{where}: {values} for widths in which no dimension or product of two has these sizes")
        return found
