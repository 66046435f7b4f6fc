"""The traced programs of a model as plain steps, and both modes as one list of steps where that says the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from niwaki.search.export._base import ExportError
from niwaki.search.export._py_layers import Calls, bind, text_of_target
from niwaki.spaces.trace import Program, module_path

_CHECKS = ("aten._assert_", "aten.sym_constrain_range", "aten._functional_assert")
_LAST = 2**62
"""torch writes an open end of a slice as 2**63 - 1."""


@dataclass(frozen=True)
class Ref:
    """A computed value: inputs are counted first, then the results of the steps."""

    index: int


@dataclass(frozen=True)
class Held:
    """A parameter or buffer, by its key."""

    key: str


@dataclass(frozen=True)
class Either:
    """A literal that depends on the mode."""

    train: Any
    eval: Any


@dataclass(frozen=True)
class Here:
    """The device of the first input."""


@dataclass(frozen=True)
class Step:
    """One line of a forward.

    Attributes:
        target: an operator, ``"[]"`` for an index of slices and numbers, or ``"call PATH"`` for a layer.
        path: module path the user's code was in; '' where unknown.
        kind: ``tensor``, ``scalar``, ``list`` or ``none`` (of the result).
        count: the length of a list.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    path: str
    kind: str
    count: int = 0


@dataclass(frozen=True)
class Flow:
    """The forward of one mode, or of both."""

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: Any
    spec: Any


def flow_of(program: Program, keys: Mapping[str, str], calls: Calls) -> Flow:
    """The steps of a program. ``keys``: placeholder -> key of its parameter, buffer or constant."""
    return _Reader(program, keys, calls).flow()


class _Reader:
    def __init__(self, program: Program, keys: Mapping[str, str], calls: Calls) -> None:
        self.program, self.keys, self.calls = program, keys, calls
        self.values: dict[fx.Node, Any] = {}
        self.steps: list[Step] = []
        self.views: dict[fx.Node, tuple[Any, dict[int, Any]]] = {}

    def flow(self) -> Flow:
        outputs: Any = ()
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                known = node.name in self.program.inputs
                self.values[node] = (
                    Ref(self.program.inputs.index(node.name)) if known else Held(self.keys[node.name])
                )
            elif node.op == "output":
                outputs = self.fill(tuple(node.args[0]))
            elif node.op == "call_function":
                self.call(node)
            else:
                raise ExportError(f"python: the traced graph holds {node.op} {node.target}, which has no Python form")
        return Flow(self.program.inputs, tuple(self.steps), outputs, self.program.out_spec)

    def call(self, node: fx.Node) -> None:
        name = text_of_target(node.target)
        if node in self.calls.absorbed or name.startswith(_CHECKS):
            return
        if node in self.calls.layers:
            path, data = self.calls.layers[node]
            self.add(node, f"call {path}", (self.fill(data),), {}, path)
        elif name in ("aten.slice.Tensor", "aten.select.int"):
            self.index(node, name)
        else:
            self.add(node, node.target, self.fill(node.args), self.fill(dict(node.kwargs)), module_path(node))

    def add(self, node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: Any, path: str) -> None:
        value = node.meta.get("val")
        kind = "none" if value is None else "scalar"
        if isinstance(value, Tensor):
            kind = "tensor"
        elif isinstance(value, (list, tuple)):
            kind = "list"
        self.values[node] = Ref(len(self.program.inputs) + len(self.steps))
        count = len(value) if isinstance(value, (list, tuple)) else 0
        path = "" if path.startswith("_empty_nn_module_stack") else path  # torch's word for nowhere
        self.steps.append(Step(target, args, kwargs, path, kind, count))

    def index(self, node: fx.Node, name: str) -> None:
        """Slices that follow each other become one index, as they were written; whole slices vanish."""
        data: Any = node.args[0]
        base, taken = self.views[data] if data in self.views else (self.fill(data), {})
        values = (*node.args[1:], *([None] * (5 - len(node.args))))
        rank = len(data.meta["val"].shape)
        dim = int(values[0] or 0) % rank  # type: ignore[arg-type]
        if dim in taken:  # not a plain list of slices any more
            base, taken = self.emit_view(data), {}
        if name == "aten.select.int":
            item: Any = self.fill(values[1])
        else:
            start, end, step = (self.fill(v) for v in values[1:4])
            item = ("slice", start or None, None if isinstance(end, int) and end > _LAST else end, step or 1)
        taken = dict(taken) if item == ("slice", None, None, 1) else {**taken, dim: item}
        self.views[node] = (base, taken)
        onward = name == "aten.slice.Tensor" and all(
            text_of_target(u.target) in ("aten.slice.Tensor", "aten.select.int") and u.args[0] is node
            for u in node.users
        )
        if not (onward and len(node.users) == 1):
            self.emit_view(node)
            self.views.pop(node)

    def emit_view(self, node: fx.Node) -> Any:
        base, taken = self.views[node]
        if taken:
            self.add(node, "[]", (base, tuple(sorted(taken.items()))), {}, module_path(node))
        else:
            self.values[node] = base
        return self.values[node]

    def fill(self, value: Any) -> Any:
        if isinstance(value, fx.Node):
            if value not in self.values:
                raise ExportError(f"python: {value.op} {value.target} has no Python form")
            return self.values[value]
        if isinstance(value, (list, tuple)):
            filled = [self.fill(v) for v in value]
            return filled if isinstance(value, list) else tuple(filled)
        if isinstance(value, dict):
            return {k: self.fill(v) for k, v in value.items()}
        return Here() if isinstance(value, torch.device) else value


class _Differs(Exception):
    pass


def join(one: Flow, two: Flow) -> Flow | None:
    """One forward for eval (``one``) and train (``two``): the same operations, literals may differ; None otherwise."""
    if len(one.steps) != len(two.steps) or one.spec != two.spec:
        return None
    try:
        steps = tuple(_join_steps(a, b) for a, b in zip(one.steps, two.steps, strict=True))
        return replace(one, steps=steps, outputs=_join(one.outputs, two.outputs))
    except _Differs:
        return None


def _join_steps(a: Step, b: Step) -> Step:
    if a.target != b.target or a.kind != b.kind:
        raise _Differs
    if (len(a.args), a.kwargs.keys()) != (len(b.args), b.kwargs.keys()):  # one of them relies on a default
        given = [bind(s.target, s.args, s.kwargs) for s in (a, b)]
        positional = [argument.name for argument in a.target._schema.arguments if not argument.kwarg_only]
        args = tuple(_join(given[0].pop(name), given[1].pop(name)) for name in positional)
        return replace(a, args=args, kwargs=_join(given[0], given[1]))
    return replace(a, args=_join(a.args, b.args), kwargs=_join(dict(a.kwargs), dict(b.kwargs)))


def _join(a: Any, b: Any) -> Any:
    if type(a) is type(b):
        if isinstance(a, (list, tuple)) and len(a) == len(b):
            return type(a)(_join(x, y) for x, y in zip(a, b, strict=True))
        if isinstance(a, dict) and a.keys() == b.keys():
            return {k: _join(a[k], b[k]) for k in a}
        if a == b:
            return a
    literal = (bool, int, float, type(None))
    if isinstance(a, literal) and isinstance(b, literal):
        return Either(b, a)
    raise _Differs
