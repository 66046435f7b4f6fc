"""From the lifetimes of tensors to the tables of :mod:`niwaki.spaces.peaks`: their sizes, and what blocks change.

A skipped block makes nothing, and what it was given is held as long as what it would have returned. In generated source
an operation in place may have to make a tensor of its own instead (:mod:`niwaki.spaces.removal`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import prod

import numpy as np
from torch import fx, nn

from niwaki.spaces.axes import ONE, Dim, new, size
from niwaki.spaces.blocks import Cone
from niwaki.spaces.cost import Poly, polynomials
from niwaki.spaces.flow import base_name
from niwaki.spaces.lifetimes import Life, Lifetimes, lifetimes
from niwaki.spaces.passes import Size
from niwaki.spaces.peaks import Handover, Peaks, PeakTable, Shorter, Tenant
from niwaki.spaces.plan import Plan
from niwaki.spaces.removal import Removal
from niwaki.spaces.trace import module_path
from niwaki.spaces.types import Group
from niwaki.spaces.watch import Store


def find_peaks(plan: Plan, model: nn.Module, groups: tuple[Group, ...]) -> Peaks | None:
    """The peaks of a space; None where the graph itself needs data to run."""
    try:
        own, source = lifetimes(model, plan.programs["eval"], plan.example_pair)
    except Exception:  # shapes that depend on data: nothing can be said before the data are there
        return None
    poly, cones = polynomials(plan, groups), _last_first(plan)
    return Peaks(
        None if own is None else _table(own, _class_changes(own, cones), plan, poly),
        _table(source, _source_changes(source, cones, plan), plan, poly),
        np.array([[g.units] for g in groups], dtype=np.int64).reshape(-1, 1),
        frozenset(c.name for c in cones if all(mine[c.name].whole for mine in plan.cones.values())),
    )


@dataclass(eq=False)
class _Changes:
    """What skipping blocks changes.

    ``gone``: block -> stores that are not made. ``handed``: (block, what is held longer, instead of what), the last
    block first. ``made``: (block, the store that a new one replaces, the operation that makes the new one, the blocks
    that operation lies in). ``shorter``: (block, what it alone reads last, the last operation besides it that reads).
    """

    gone: dict[str, set[Store]] = field(default_factory=dict)
    handed: list[tuple[str, Store, Store]] = field(default_factory=list)
    made: list[tuple[str, Store, int, frozenset[str]]] = field(default_factory=list)
    shorter: list[tuple[str, Store, int]] = field(default_factory=list)

    def hand(self, block: str, entry: Store | None, result: Store | None) -> None:
        if result is not None and result is not entry:
            self.gone[block].add(result)
            if entry is not None:
                self.handed.append((block, entry, result))


def _class_changes(found: Lifetimes, cones: Sequence[Cone]) -> _Changes:
    """nn.Identity in place of whole modules; other blocks cannot go from a class."""
    changes = _Changes()
    for cone in (c for c in cones if c.whole):
        nodes, exit_ = _extent(cone)
        changes.gone[cone.name] = _made_by(nodes, found)
        changes.hand(cone.name, found.homes.get(cone.skip), found.homes.get(exit_))
    return changes


def _source_changes(found: Lifetimes, cones: Sequence[Cone], plan: Plan) -> _Changes:
    """Additions become their shortcuts, or copies of them."""
    changes, inside, reads = _Changes(), plan.block_sets(), _reads(found, plan)
    for cone in cones:
        removal = Removal([cone])
        changes.gone[cone.name] = _made_by({*cone.nodes, cone.add}, found)
        entry, result = found.homes.get(cone.skip), found.homes.get(cone.add)
        maker = next(iter(removal.fresh), cone.add if cone.add in removal.copied else None)
        if maker is None or result is None:
            changes.hand(cone.name, entry, result)
        else:
            changes.gone[cone.name].add(result)
            outer = inside.get(cone.add, frozenset()) - {cone.name}
            changes.made.append((cone.name, result, found.moments[maker], outer))
        changes.shorter += _read_last(cone, reads, changes.gone[cone.name])
    return changes


def _reads(found: Lifetimes, plan: Plan) -> list[tuple[fx.Node, Store, int]]:
    """Every (node, store that it reads, number of the operation); what the output reads is held to the end."""
    return [
        (node, store, store.last if node.op == "output" else found.moments.get(node, store.born))
        for node in plan.programs["eval"].graph.nodes
        for store in {found.homes[i] for i in node.all_input_nodes if i in found.homes}
        if store.born >= 0
    ]


def _read_last(
    cone: Cone, reads: Sequence[tuple[fx.Node, Store, int]], inside: set[Store]
) -> Iterator[tuple[str, Store, int]]:
    """Stores from outside that a block is the last to read, and which operation is the last without it."""
    touched = {store for node, store, _ in reads if node in cone.nodes} - inside
    last = {store: store.born for store in touched}
    for node, store, moment in reads:
        if store in touched and node not in cone.nodes:
            last[store] = max(last[store], moment)
    yield from ((cone.name, store, moment) for store, moment in last.items() if moment < store.last)


def _table(found: Lifetimes, changes: _Changes, plan: Plan, poly: Callable[[Dim], Poly]) -> PeakTable:
    births = np.array(sorted({life.store.born for life in found.lives} | {born for _, _, born, _ in changes.made}))
    number = {life.store: i for i, life in enumerate(found.lives)}

    def moment(operation: int) -> int:
        return int(np.searchsorted(births, operation, side="right")) - 1

    def tenant(life: Life) -> Tenant:
        store, dims = life.store, _dims(life, plan, found)
        factor = _per_example(store, found.batch) if dims is None else store.itemsize
        blocks = frozenset(b for b, dead in changes.gone.items() if store in dead)
        return Tenant(factor, tuple(map(poly, dims or ())), moment(store.born), moment(store.last), blocks)

    tenants = [tenant(life) for life in found.lives]
    for block, store, born, outer in changes.made:
        old = tenants[number[store]]
        tenants.append(Tenant(old.factor, old.sizes, moment(born), old.last, outer, block, number[store]))
    for life, made in list(zip(found.lives, tenants, strict=False)):
        if life.node is not None and base_name(life.node) == "scaled_dot_product_attention" and life.store.part == 0:
            tenants += _unfused(life.node, made, plan, poly)
    handovers = [Handover(b, number[entry], number[result]) for b, entry, result in changes.handed]
    shorter = [Shorter(b, number[store], moment(last)) for b, store, last in changes.shorter]
    return PeakTable(tenants, handovers, shorter, sum(_dims(life, plan, found) is None for life in found.lives))


def _unfused(node: fx.Node, result: Tenant, plan: Plan, poly: Callable[[Dim], Poly]) -> list[Tenant]:
    """What attention makes besides where queries and values are of unequal sizes, which fused kernels refuse."""
    query, key, value = (plan.analysis.values[n][0] for n in node.args[:3] if isinstance(n, fx.Node))
    a, b = poly(query[-1]), poly(value[-1])
    if a is b:
        return []
    scores = replace(result, factor=2 * result.factor, sizes=tuple(map(poly, [*query[:-1], key[-2]])), last=result.born)
    scaled = [replace(scores, factor=result.factor, sizes=tuple(map(poly, dims))) for dims in (query, key, value)]
    return [replace(t, unequal=(a, b)) for t in (scores, *scaled)]


def _last_first(plan: Plan) -> list[Cone]:
    order = {node: i for i, node in enumerate(plan.programs["eval"].graph.nodes)}
    return sorted(plan.cones["eval"].values(), key=lambda c: -order[c.add])


def _made_by(nodes: set[fx.Node], found: Lifetimes) -> set[Store]:
    return {life.store for life in found.lives if life.node in nodes}


def _extent(cone: Cone) -> tuple[set[fx.Node], fx.Node]:
    """What goes with a module, and the node of its result: nn.Identity stands in for a relu at its end, too."""
    nodes, exit_ = {*cone.nodes, cone.add}, cone.add
    while len(exit_.users) == 1 and _within(module_path(user := next(iter(exit_.users))), cone.name):
        exit_ = user
        nodes.add(exit_)
    return nodes, exit_


def _within(path: str, module: str) -> bool:
    return path == module or path.startswith(f"{module}.")


def _per_example(store: Store, batch: int) -> int:
    return store.bytes // batch if store.bytes % batch == 0 and batch in store.shape else store.bytes


def _dims(life: Life, plan: Plan, found: Lifetimes) -> list[Dim] | None:
    """Dimensions whose product is the number of elements of a store; None where the graph does not tell."""
    store, node, values = life.store, life.node, plan.analysis.values
    elements = prod(store.shape)
    if node is None or elements * store.itemsize != store.bytes:
        return None
    if not elements:
        return [()]
    if base_name(node) == "group_norm" and len(store.shape) == 2:
        grouped = plan.analysis.rewrites.get(node, (None, node.args, {}))[1][1]
        return [grouped.dim if isinstance(grouped, Size) else new(grouped)]
    inputs = sorted(node.all_input_nodes, key=lambda n: store.source is None or found.homes.get(n) is not store.source)
    own, read = values.get(node, []), [d for n in inputs for d in values.get(n, [])]
    known = [*own[store.part :], *own[: store.part], *read]
    if store.part == 0 and found.homes.get(node) is not store:  # a copy of an operand on the way
        known = [*read, *own]
    shapes = [tuple(size(d, lambda a: found.batch if a.batch else a.size) for d in dims) for dims in known]
    alike = next((dims for dims, shape in zip(known, shapes, strict=True) if shape == store.shape), None)
    if alike is not None:
        return alike
    if (some := _statistics(store, known, shapes)) is not None:
        return some
    return next((dims for dims, shape in zip(known, shapes, strict=True) if prod(shape) == elements), None)


def _statistics(store: Store, known: Sequence[list[Dim]], shapes: Sequence[tuple[int, ...]]) -> list[Dim] | None:
    """Some dimensions of a tensor, the others left out or 1: means and deviations, maxima of an attention's rows."""
    for dims, shape in zip(known, shapes, strict=True):
        if 0 < len(store.shape) <= len(shape):
            pairs = list(zip(store.shape, dims, shape, strict=False))
            if all(n in (1, full) for n, _, full in pairs):
                return [d if n == full else ONE for n, d, full in pairs]
    return None
