"""When the user's own code makes every activation tensor, and how long it holds it: one run without arithmetic.

A traced graph knows what is computed, not which names of a forward function, arguments of a call or lists still hold
a tensor. So model and graph are both run on fake tensors, and the memory that each makes is matched, first to last.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from niwaki.spaces.trace import Program, hint, shape_of
from niwaki.spaces.watch import Op, Store, Watch, unfused_attention


@dataclass(frozen=True, eq=False)
class Life:
    """One store of the user's model, and the traced operation that makes it; None where no operation matches."""

    store: Store
    node: fx.Node | None


@dataclass(frozen=True, eq=False)
class Lifetimes:
    """Every store of one run.

    Attributes:
        lives: in the order in which they are made.
        homes: node -> the store that its (first) result lives in.
        moments: node -> number of the last operation that it ran.
        batch: examples that were run: one, where the graph is not bound to the batch that was traced.
    """

    lives: tuple[Life, ...]
    homes: dict[fx.Node, Store]
    moments: dict[fx.Node, int]
    batch: int


def lifetimes(model: nn.Module, program: Program, example: Sequence[Tensor]) -> tuple[Lifetimes | None, Lifetimes]:
    """Follow ``model``, in eval mode, on tensors shaped as ``example``, through the operations of ``program``.

    Returns:
        The lifetimes of the user's code, None where it does not run on fake tensors; and those of generated source,
        which gives every tensor up after its last use.
    """
    try:
        watched, homes = _run_graph(program, batch := [e[:1] for e in example])
    except Exception:  # sizes of the traced batch are written into the graph
        watched, homes = _run_graph(program, batch := list(example))
    n = len(batch[0]) if batch else 1
    nodes = {s: _node(watched, s) for s in watched.stores}
    moments = {op.tag: i for i, op in enumerate(watched.ops)}
    traced = Lifetimes(tuple(Life(s, nodes[s]) for s in watched.stores), homes, moments, n)
    try:
        own = _run_model(model, batch)
    except Exception:  # code that looks at data; what it raises on fake tensors is no concern of the user's
        return None, traced
    twins = dict(zip(watched.stores[: len(batch)], own.stores, strict=False))  # the inputs
    for mine, theirs in _pairs(own.ops, watched.ops):
        twins |= zip(theirs.stores, mine.stores, strict=True)
    makers = {mine: nodes[theirs] for theirs, mine in twins.items()}
    lives = tuple(Life(s, makers.get(s)) for s in own.stores)
    return Lifetimes(lives, {n: twins[s] for n, s in homes.items() if s in twins}, {}, n), traced


def _pairs(own: Sequence[Op], traced: Sequence[Op]) -> list[tuple[Op, Op]]:
    """Operations that make memory, matched in order by what they do and make."""
    a, b = ([op for op in ops if op.stores] for ops in (own, traced))
    left, right = ([(op.name, tuple((s.part, s.shape) for s in op.stores)) for op in ops] for ops in (a, b))
    blocks = SequenceMatcher(None, left, right, autojunk=False).get_matching_blocks()
    return [(a[m.a + i], b[m.b + i]) for m in blocks for i in range(m.size)]


def _node(watched: Watch, store: Store) -> fx.Node | None:
    node: fx.Node | None = watched.ops[store.born].tag if store.born >= 0 else watched.inputs[store.part]
    return node


def _run_model(model: nn.Module, example: Sequence[Tensor]) -> Watch:
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    named = [*model.named_parameters(), *model.named_buffers()]
    state = {name: _faked(fake, t.shape, t.dtype, t.stride()) for name, t in named}
    args = tuple(_faked(fake, e.shape, e.dtype, e.stride()) for e in example)
    watch = Watch(args, state.values())
    twin = copy.deepcopy(model, {id(t): t for _, t in named}).eval()  # a forward may keep what it computes, fakes too
    with torch.no_grad(), unfused_attention():
        with fake, watch:
            result = functional_call(twin, state, args)
        watch.finish()
    del result
    return watch


def _run_graph(program: Program, example: Sequence[Tensor]) -> tuple[Watch, dict[fx.Node, Store]]:
    """Node by node, every value given up after its last use."""
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    values: dict[fx.Node, Any] = {}
    places = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    inputs = [places[name] for name in program.inputs]
    for node, e in zip(inputs, example, strict=True):
        values[node] = _faked(fake, e.shape, e.dtype, e.stride())
    args = [values[n] for n in inputs]
    for node in places.values():
        if node not in values and hasattr(value := node.meta.get("val"), "shape"):
            values[node] = _faked(fake, shape_of(value), value.dtype, value.stride())
    watch = Watch(args, [v for n, v in values.items() if n not in inputs])
    watch.inputs = inputs
    last = {i: node for node in program.graph.nodes for i in node.all_input_nodes}
    homes: dict[fx.Node, Store] = {}
    with torch.no_grad(), fake, watch:
        for node in program.graph.nodes:
            if node.op == "call_function":
                watch.tag = node
                values[node] = _call(node, values)
                _note(node, values[node], watch, homes)
                for i in [*node.all_input_nodes, node]:
                    if last.get(i, node) is node and i.op == "call_function":
                        del values[i]
            elif node in values:
                _note(node, values[node], watch, homes)
    watch.finish()
    return watch, homes


def _call(node: fx.Node, values: dict[fx.Node, Any]) -> Any:
    def fill(value: Any) -> Any:
        return fx.map_arg(value, lambda n: values[n])

    assert callable(node.target)
    return node.target(*fill(node.args), **fill(node.kwargs))


def _note(node: fx.Node, value: Any, watch: Watch, homes: dict[fx.Node, Store]) -> None:
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    if isinstance(first, Tensor) and (store := watch.store_of(first)) is not None:
        homes[node] = store


def _faked(fake: FakeTensorMode, shape: Sequence[int], dtype: torch.dtype, strides: Sequence[Any]) -> Tensor:
    """On the CPU, where the figures are for, wherever the model is."""
    with fake:
        return torch.empty_strided(tuple(shape), tuple(hint(s) for s in strides), dtype=dtype)
