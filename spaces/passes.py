"""One walk over a traced graph: every operation's rule unifies dimensions; what no rule understood is pinned.

A rule sees its node through :class:`Call`. It reads dimensions with ``dims`` (inputs it never asks for are pinned
by the driver: a rule cannot forget one), states the result with ``out``, counts its MACs with ``macs`` and, where
literals in the arguments depend on widths, writes them as :class:`Size`, :class:`Before` or :class:`Free`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from niwaki.spaces import algebra, axes
from niwaki.spaces.axes import Dim
from niwaki.spaces.trace import BATCH, Program, hint, shape_of, source_line
from niwaki.spaces.unknown import fixed_macs

Rule = Callable[["Call"], None]


@dataclass(frozen=True, eq=False)
class Size:
    """A literal: the carved size of a dimension."""

    dim: Dim


@dataclass(frozen=True, eq=False)
class Before:
    """A literal: how many of the first ``position`` places of a dimension are kept (slice bounds)."""

    dim: Dim
    position: int


@dataclass(frozen=True, eq=False)
class Free:
    """A size computed at run time: becomes -1 once the dimension shrinks."""

    dim: Dim
    node: fx.Node


@dataclass(frozen=True, eq=False)
class Row:
    """One operation for costs: macs = product of the sizes of ``factors`` (batch counts as 1).

    None at all where ``summed`` is given and comes down to one position (einsum then multiplies without summing).
    """

    node: fx.Node
    op: str
    factors: tuple[Dim, ...]
    inputs: Dim
    outputs: Dim
    positions: tuple[Dim, ...]
    kernel: int = 1
    stride: int = 1
    groups: Dim = axes.ONE
    weight: str | None = None
    summed: tuple[Dim, ...] = ()


@dataclass(eq=False)
class Analysis:
    """What the walks over both graphs found, over one set of parameter dimensions."""

    tensors: dict[str, list[Dim]] = field(default_factory=dict)
    values: dict[fx.Node, list[list[Dim]]] = field(default_factory=dict)
    rewrites: dict[fx.Node, tuple[Any, tuple[Any, ...], dict[str, Any]]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    producers: list[tuple[fx.Node, str, int]] = field(default_factory=list)
    consumers: set[tuple[str, int]] = field(default_factory=set)
    carriers: set[str] = field(default_factory=set)
    over_kept: set[fx.Node] = field(default_factory=set)
    unlisted: set[str] = field(default_factory=set)

    def walk(self, program: Program, rules: Mapping[str, Rule]) -> None:
        """Propagate dimensions through every node of the program."""
        for node in program.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, program)
            elif node.op == "call_function":
                self._call(node, rules)
            elif node.op == "output":
                for value in node.all_input_nodes:
                    for dims in self.values.get(value, []):
                        for dim in dims:
                            axes.pin(dim, "feeds the output")

    def _placeholder(self, node: fx.Node, program: Program) -> None:
        value: Any = node.meta.get("val")
        if not hasattr(value, "shape"):
            return
        key = program.keys.get(node.name)
        if key is None:
            dims = [axes.new(s, "input", batch=i == 0) for i, s in enumerate(shape_of(value))]
        elif key in self.tensors:
            dims = self.tensors[key]
        else:
            reason = None if key in program.ties else "a constant"
            if not value.dtype.is_floating_point:
                reason = "integer data"
            first = program.ties.get(key, key)
            if first not in self.tensors:
                self.tensors[first] = [axes.new(s, reason) for s in shape_of(value)]
            dims = self.tensors[key] = self.tensors[first]
            if first != key or key in program.constants:
                self.unlisted.add(key)
        self.values[node] = [dims]

    def _call(self, node: fx.Node, rules: Mapping[str, Rule]) -> None:
        call = Call(self, node)
        name = str(node.target)
        rule = rules.get(name)
        if rule is None:
            if call.has_tensors():
                call.give_up(f"no rule for {name}")
            return
        rule(call)
        call.close()


class Call:
    """A node as its rule sees it."""

    def __init__(self, analysis: Analysis, node: fx.Node) -> None:
        self.node = node
        self.analysis = analysis
        self._seen: set[fx.Node] = set()
        self.where = source_line(node)

    def has_tensors(self) -> bool:
        return hasattr(self.node.meta.get("val"), "shape") or any(
            n in self.analysis.values for n in self.node.all_input_nodes
        )

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """An argument given by position or by name."""
        if index < len(self.node.args):
            return self.node.args[index]
        return self.node.kwargs.get(name, default)

    def dims(self, value: Any, part: int = 0) -> list[Dim]:
        """Dimensions of a tensor argument (of output ``part`` where the node has several)."""
        self._seen.add(value)
        return self.analysis.values[value][part]

    def is_tensor(self, value: Any) -> bool:
        return isinstance(value, fx.Node) and bool(self.analysis.values.get(value))

    def shape(self) -> list[int]:
        """Shape of the (single) result while tracing."""
        return shape_of(self.node.meta["val"])

    def shapes(self) -> list[list[int]]:
        value = self.node.meta["val"]
        return [shape_of(v) for v in (value if isinstance(value, (list, tuple)) else [value])]

    def reason(self, text: str) -> str:
        return f"{text} ({self.where})" if self.where else text

    def unify(self, a: Dim, b: Dim) -> None:
        algebra.unify(a, b, self.reason(f"{self.node.target}: dimensions that do not align"))

    def pin(self, dim: Dim, text: str) -> None:
        axes.pin(dim, self.reason(text))

    def data(self, size: int) -> Dim:
        """A dimension of positions, not of units (space, time...)."""
        return axes.new(size, "data")

    def out(self, *results: list[Dim]) -> None:
        self.analysis.values[self.node] = list(results)

    def rewrite(self, *args: Any, target: Any = None, **named: Any) -> None:
        """The node's arguments with width-dependent literals as Size/Before/Free; ``named`` ones are added."""
        self.analysis.rewrites[self.node] = (target or self.node.target, args, named)

    def row(self, op: str, factors: list[Dim], channels: tuple[Dim, Dim], positions: list[Dim], **more: Any) -> None:
        self.analysis.rows.append(Row(self.node, op, tuple(factors), *channels, tuple(positions), **more))

    def key(self, value: Any) -> str | None:
        """State-dict key behind an argument, where it is a parameter itself."""
        if not isinstance(value, fx.Node) or value.op != "placeholder":
            return None
        dims = self.analysis.values.get(value)
        return next((k for k, d in self.analysis.tensors.items() if dims and d is dims[0]), None)

    def layer(self, weight: Any, produces: int, consumes: int, channel: int) -> None:
        """Note a layer's roles: which weight dimension makes units, which reads them, and where they come out."""
        key = self.key(weight)
        if key is not None:
            self.analysis.producers.append((self.node, key, produces))
            self.analysis.consumers.add((key, consumes))
            self.node.meta["niwaki_channel"] = channel

    def carries(self, *values: Any) -> None:
        for value in values:
            if (key := self.key(value)) is not None:
                self.analysis.carriers.add(key)

    def over_kept(self, *dims: Dim) -> None:
        """Note that the operation reads statistics over these units: absent is not the same as zero.

        The masked reference then computes it over the kept units alone.
        """
        self.analysis.over_kept.add(self.node)
        for dim in dims:
            axes.inexact(dim)

    def give_up(self, text: str) -> None:
        """Pin everything the node touches: safe, and said."""
        for value in self.node.all_input_nodes:
            for dims in self.analysis.values.get(value, []):
                for dim in dims:
                    self.pin(dim, text)
        self.out(*[opaque(v, self.reason(text)) for v in results_of(self.node)])
        if macs := fixed_macs(self.node):
            self.row("matmul", [axes.new(macs, text)], (axes.ONE, axes.ONE), [])

    def close(self) -> None:
        """Guard: inputs the rule never looked at are pinned, results it never stated are opaque."""
        for value in self.node.all_input_nodes:
            if value in self._seen:
                continue
            for dims in self.analysis.values.get(value, []):
                for dim in dims:
                    self.pin(dim, f"an input that the rule for {self.node.target} does not follow")
        if self.node not in self.analysis.values and results_of(self.node):
            self.out(*[opaque(v, "data") for v in results_of(self.node)])


def results_of(node: fx.Node) -> list[Any]:
    """The (fake) tensors a node returns."""
    value = node.meta.get("val")
    values = value if isinstance(value, (list, tuple)) else [value]
    return [v for v in values if hasattr(v, "shape")]


def opaque(value: Any, reason: str) -> list[Dim]:
    """Fresh pinned dimensions for a tensor nothing is known of; symbolic sizes stay multiples of the batch."""
    dims = []
    for s in value.shape:
        n = hint(s)
        if isinstance(s, int):
            dims.append(axes.new(n, reason))
        else:
            rest = n // BATCH if n % BATCH == 0 else 1
            dims.append(((axes.Atom(BATCH, reason, batch=True), *([axes.Atom(rest, reason)] if rest > 1 else [])),))
    return dims
