"""Carved graphs as plain source text, and the module that runs it over the teacher's parameter names.

``ep.module()`` of torch.export cannot switch to train mode and does not pickle; text does both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from niwaki.spaces.axes import Dim, dim_size, leaves
from niwaki.spaces.passes import Before, Free, Size
from niwaki.spaces.removal import Removal
from niwaki.spaces.trace import Mode, Program

if TYPE_CHECKING:
    from niwaki.spaces.plan import Plan

MaskOf = Callable[[Dim], Tensor | None]
Fill = Callable[[Any, dict[fx.Node, fx.Node]], Any]
"""What stands in the place of a literal of the traced graph; it is also given the new node of every old one."""


class SourceModule(nn.Module):
    """A carved network where the user's class could not be kept.

    An ordinary module: state-dict keys are the teacher's; it trains, switches modes, copies, pickles, moves, exports.
    ``sources`` holds one function per mode; ``print(module.source("eval"))`` shows it.
    """

    def __init__(self, sources: Mapping[Mode, str], specs: Mapping[Mode, Any]) -> None:
        super().__init__()
        self._sources = dict(sources)
        self._specs = dict(specs)
        self._functions = {m: _compile(s) for m, s in self._sources.items()}

    def source(self, mode: Mode) -> str:
        """The text that runs in ``eval`` or ``train`` mode."""
        return self._sources[mode]

    def forward(self, x: Any, *more: Any) -> Any:
        mode: Mode = "train" if self.training else "eval"
        if mode not in self._functions:
            raise RuntimeError("torch.export could not trace this model in train mode: it runs in eval mode only")
        return pytree.tree_unflatten(list(self._functions[mode](self, x, *more)), self._specs[mode])

    def place(self, key: str, value: Tensor | None, persistent: bool) -> None:
        """Register a parameter or buffer under its dotted name."""
        *path, name = key.split(".")
        module: nn.Module = self
        for part in path:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        if isinstance(value, nn.Parameter):
            module.register_parameter(name, value)
        else:
            module.register_buffer(name, value, persistent=persistent)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_functions"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._functions = {m: _compile(s) for m, s in self._sources.items()}

    def __deepcopy__(self, memo: dict[int, Any]) -> SourceModule:
        from copy import deepcopy

        new = type(self).__new__(type(self))
        memo[id(self)] = new
        new.__setstate__(deepcopy(self.__getstate__(), memo))
        return new


def _compile(source: str) -> Callable[..., Any]:
    namespace: dict[str, Any] = {"torch": torch, "device": torch.device, "inf": float("inf"), "nan": float("nan")}
    exec(compile(source, "<carved graph>", "exec"), namespace)
    function: Callable[..., Any] = namespace["forward"]
    return function


def generate(program: Program, plan: Plan, skipped: frozenset[str], mask: MaskOf) -> str:
    """Python text of :func:`carved_graph`."""
    return carved_graph(program, plan, skipped, mask).python_code("self").src


def carved_graph(program: Program, plan: Plan, skipped: frozenset[str], mask: MaskOf) -> fx.Graph:
    """The program without the skipped blocks and with every literal at its carved size.

    Parameters are ``get_attr`` nodes; ``meta["origin"]`` of a node is the traced one.
    """
    return rewritten(program, plan, skipped, lambda value, new: literal(value, new, mask))


def rewritten(program: Program, plan: Plan, skipped: frozenset[str], fill: Fill) -> fx.Graph:
    """The program without the skipped blocks; ``fill`` writes its literals. See :func:`carved_graph`."""
    gone = Removal([plan.cones[program.mode][name] for name in skipped])
    graph = fx.Graph()
    new: dict[fx.Node, fx.Node] = {}
    placed: set[fx.Node] = set()
    for node in program.graph.nodes:  # inputs first: a placeholder may not follow a get_attr
        if node.op == "placeholder" and node.name in program.inputs:
            new[node] = graph.placeholder(node.name)
            placed.add(node)
    for node in program.graph.nodes:
        if node in placed:
            continue
        if node in gone.replaced:
            skip = new[gone.replaced[node]]
            new[node] = graph.call_function(torch.ops.aten.clone.default, (skip,)) if node in gone.copied else skip
        elif node in gone.dead:
            continue
        elif node.op == "placeholder":
            if any(u not in gone.dead for u in node.users):
                new[node] = graph.get_attr(program.keys[node.name])
        elif node.op == "output":
            graph.output(tuple(fx.map_arg(node.args[0], lambda n: new[n])))
        else:
            rewrite = plan.analysis.rewrites.get(node)
            if node in gone.fresh:
                rewrite = (gone.fresh[node], *(rewrite[1:] if rewrite else (node.args, {})))
            new[node] = _emit(graph, node, rewrite, new, fill)
    for old, node in new.items():
        node.meta.setdefault("origin", old)
    graph.set_codegen(fx.graph.CodeGen())
    return graph


def _emit(graph: fx.Graph, node: fx.Node, rewrite: Any, new: dict[fx.Node, fx.Node], fill: Fill) -> fx.Node:
    target, args, named = (node.target, node.args, {}) if rewrite is None else rewrite
    if isinstance(target, str):
        target = _op(target)

    def mapped(value: Any) -> Any:
        """Arguments with nodes mapped, sizes evaluated, and the traced device replaced by that of the data."""
        if isinstance(value, fx.Node):
            return new[value]
        if isinstance(value, dict):
            return {k: mapped(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(mapped(v) for v in value)
        if isinstance(value, torch.device):
            data = next((n for n in node.graph.nodes if n.op == "placeholder" and n in new), None)
            return value if data is None else graph.call_function(getattr, (new[data], "device"))
        return fill(value, new)

    return graph.call_function(target, mapped(tuple(args)), mapped({**node.kwargs, **named}))


def _op(name: str) -> Any:
    namespace, op, overload = name.split(".")
    return getattr(getattr(getattr(torch.ops, namespace), op), overload)


def literal(value: Any, new: dict[fx.Node, fx.Node], mask: MaskOf) -> Any:
    """A width-dependent literal as the number it is in this cut; anything else as it is."""
    if not isinstance(value, (Size, Before, Free)):
        return value
    kept = mask(value.dim)
    if isinstance(value, Free):
        return new[value.node] if kept is None else -1
    if isinstance(value, Before):
        return value.position if kept is None else int(kept[: value.position].sum())
    if kept is not None:
        return int(kept.sum())
    return dim_size(value.dim) if not any(a.batch for a in leaves(value.dim)) else -1
