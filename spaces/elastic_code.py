"""Source for every width at once: the traced graph without some blocks, its sizes and tensors read from tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx

from niwaki.spaces import axes
from niwaki.spaces.axes import Dim
from niwaki.spaces.flow import base_name, memory_of, touched
from niwaki.spaces.passes import Before, Free, Size
from niwaki.spaces.places import Cut, Flags, Places, Ranks
from niwaki.spaces.plan import Plan
from niwaki.spaces.source import literal, rewritten
from niwaki.spaces.trace import Program

Kind = Literal["eval", "train", "calibrate"]
"""``calibrate`` is ``eval`` with every BatchNorm working on its batch, and giving its statistics out."""
_BATCH_NORM = torch.ops.aten.batch_norm.default


@dataclass(frozen=True, eq=False)
class Table:
    """What one candidate puts into the source: numbers, and what stays of each dimension of each tensor."""

    sizes: list[int | None]
    cuts: list[tuple[tuple[int, Cut], ...]]


@dataclass(frozen=True, eq=False)
class Code:
    """One set of skipped blocks, one mode.

    Attributes:
        run: the function; its first argument holds ``s`` (the sizes), ``t0, t1, ...`` (the tensors) and, to calibrate,
            ``m0, v0, m1, v1, ...`` (where each BatchNorm puts its batch's mean and variance).
        source: its text.
        keys: state-dict key behind each tensor.
        written: tensors that the graph writes to (running statistics).
        normed: places in ``keys`` of the running mean and variance behind each pair of ``m`` and ``v``.
        literals: every number in the table of sizes, with the dimension in ``places`` that it follows.
        tensors: for each tensor its dimensions that may shrink, each with its number in ``places``.
    """

    run: Callable[..., tuple[Any, ...]]
    source: str
    keys: tuple[str, ...]
    written: tuple[int, ...]
    normed: tuple[tuple[int, int], ...]
    out_spec: Any
    literals: tuple[tuple[Size | Before | Free, int], ...]
    places: Places
    tensors: tuple[tuple[tuple[int, int], ...], ...]

    def table(self, alive: Flags, device: torch.device) -> Table:
        """The entries for a candidate, given which units it keeps (:meth:`Ranks.alive`)."""
        counts = self.places.kept(alive)
        stays = self.places.cuts(counts, device)
        starts = self.places.starts
        sizes = []
        for value, i in self.literals:
            end = starts[i] + value.position if isinstance(value, Before) else starts[i + 1]
            sizes.append(_entry(value, int(counts[end] - counts[starts[i]]), int(starts[i + 1] - starts[i])))
        return Table(sizes, [tuple((d, stays[i]) for d, i in dims if stays[i] is not None) for dims in self.tensors])


def _entry(value: Size | Before | Free, kept: int, size: int) -> int | None:
    """As :func:`niwaki.spaces.source.literal`, of a dimension that keeps ``kept`` of ``size`` places."""
    if isinstance(value, Before):
        return kept
    if isinstance(value, Free):
        return None if kept == size else -1
    return -1 if kept == size and any(a.batch for a in axes.leaves(value.dim)) else kept


class _Entry(int):
    """A number in the table of sizes: prints as the look-up."""

    def __repr__(self) -> str:
        return f"self.s[{int(self)}]"


def given(entry: int | None, running: int) -> int:
    """A size that is computed on the way, unless the table says otherwise."""
    return running if entry is None else entry


def write(program: Program, plan: Plan, skipped: frozenset[str], kind: Kind, ranks: Ranks) -> Code:
    """Generate and compile the source of one set of skipped blocks."""
    literals: list[Size | Before | Free] = []

    def fill(value: Any, new: dict[fx.Node, fx.Node]) -> Any:
        if not isinstance(value, (Size, Before, Free)) or not _moves(value.dim, ranks):
            return literal(value, new, lambda _: None)
        entry = _Entry(len(literals))
        literals.append(value)
        if isinstance(value, Free):
            running = new[value.node]
            return running.graph.call_function(given, (entry, running))
        return entry

    graph = rewritten(program, plan, skipped, fill)
    keys: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            node.target = f"t{keys.setdefault(str(node.target), len(keys))}"
    normed = _calibrated(graph) if kind == "calibrate" else ()
    text = graph.python_code("self")
    namespace = dict(text.globals)
    exec(compile(text.src, "<elastic graph>", "exec"), namespace)
    dims: dict[Dim, int] = {}
    tensors = tuple(
        tuple(
            (d, dims.setdefault(axes.resolve(dim), len(dims)))
            for d, dim in enumerate(plan.analysis.tensors.get(key, []))
            if _moves(dim, ranks)
        )
        for key in keys
    )
    entries = tuple((value, dims.setdefault(axes.resolve(value.dim), len(dims))) for value in literals)
    return Code(
        namespace["forward"], text.src, tuple(keys), _written(program, keys), normed, program.out_spec, entries,
        Places(list(dims), ranks), tensors,
    )  # fmt: skip


def _moves(dim: Dim, ranks: Ranks) -> bool:
    return any(a in ranks.first for a in axes.leaves(dim))


def _written(program: Program, keys: Mapping[str, int]) -> tuple[int, ...]:
    """Tensors of the state that some operation of the graph writes to."""
    targets = {t for node in program.graph.nodes for t in touched(node, True)}
    for node in program.graph.nodes:
        if base_name(node) in ("batch_norm", "instance_norm") and node.args[5]:  # their schemas do not tell
            targets |= {t for t in node.args[3:5] if t is not None}
    memories = {program.keys.get(memory_of(t).name) for t in targets}
    return tuple(i for key, i in keys.items() if key in memories)


def _calibrated(graph: fx.Graph) -> tuple[tuple[int, int], ...]:
    """Let every BatchNorm with running statistics work on its batch alone, and put that batch's into new tensors."""
    found: list[tuple[int, int]] = []
    for node in list(graph.nodes):
        if node.target is _BATCH_NORM and all(isinstance(a, fx.Node) and a.op == "get_attr" for a in node.args[3:5]):
            mean, variance = (int(str(a.target)[1:]) for a in node.args[3:5])
            with graph.inserting_before(node):
                fresh = [graph.get_attr(f"{name}{len(found)}") for name in "mv"]
            node.args = (*node.args[:3], *fresh, True, 1.0, *node.args[7:])
            found.append((mean, variance))
    return tuple(found)


def cut_view(value: Tensor, cuts: tuple[tuple[int, Cut], ...]) -> Tensor:
    """What stays of a tensor: a view where every cut is a run, else a copy that gradients flow through."""
    for d, cut in cuts:
        if isinstance(cut, tuple):
            value = value.narrow(d, *cut)
        elif cut is not None:
            value = value.index_select(d, cut)
    return value


def put_back(value: Tensor, part: Tensor, cuts: tuple[tuple[int, Cut], ...]) -> None:
    """Inverse of :func:`cut_view`: write the part into its places."""
    if not cuts:
        value.copy_(part)
        return
    outer, (d, cut) = cuts[:-1], cuts[-1]
    inner = cut_view(value, outer)
    if isinstance(cut, Tensor):
        inner.index_copy_(d, cut, part)
    else:
        cut_view(inner, cuts[-1:]).copy_(part)
    if any(isinstance(c, Tensor) for _, c in outer):  # then inner is a copy itself
        put_back(value, inner, outer)
