"""What may be cut in a model, what may not, and why: the figures behind ``niwaki space``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from niwaki.spaces.cost import CostTable, Ints, Selection
from niwaki.spaces.space import Space
from niwaki.spaces.types import Cost, Fixed, Group

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GroupRow:
    """One group: shares are what the model would lose without any of its units.

    Attributes:
        name: of the group.
        layers: the layers that make its units; they are tied by the network itself.
        units: in the teacher.
        choices: widths on offer, ascending.
        macs: share of the teacher's MACs.
        params: share of its parameters.
        exact: False where the units pass a normaliser: removing one is not the same as zeroing it.
        stream: whether the units are a residual stream.
        tied: other groups that keep as many units on request (``SpaceOptions.tie``).
    """

    name: str
    layers: tuple[str, ...]
    units: int
    choices: tuple[int, ...]
    macs: float
    params: float
    exact: bool
    stream: bool
    tied: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """Removable blocks, first to last, ``least`` of which stay; shares are what goes with the others."""

    name: str
    blocks: tuple[str, ...]
    least: int
    macs: float
    params: float


@dataclass(frozen=True)
class FixedRow:
    """One part that may not shrink, and the shares of the model that its units take part in."""

    name: str
    units: int
    reason: str
    where: str
    macs: float
    params: float


@dataclass(frozen=True)
class ReasonRow:
    """All parts that may not shrink for one reason, with the shares that they hold together."""

    reason: str
    parts: tuple[str, ...]
    units: int
    where: tuple[str, ...]
    macs: float
    params: float


@dataclass(frozen=True)
class SpaceReport:
    """All of ``niwaki space``. Shares are fractions of the teacher's MACs or parameters; those of parts overlap, since
    a weight belongs to what makes its rows and to what makes its columns.

    Attributes:
        teacher: cost of the whole model (MACs of one example).
        smallest: cost of the smallest candidate.
        cuttable_macs: share of MACs in operations with at least one group (1 - share that no width can reduce).
        cuttable_params: the same for parameters.
        removable_macs: share of MACs in blocks that may be left out.
        removable_params: the same for parameters.
        groups: one row each, in the order of the network.
        stages: removable blocks.
        sparsities: layer -> tokens.
        fixed: what may not shrink and why.
        reasons: the same by reason, most parameters first.
        candidates: how many different choices there are, as a power of ten.
    """

    teacher: Cost
    smallest: Cost
    cuttable_macs: float
    cuttable_params: float
    removable_macs: float
    removable_params: float
    groups: tuple[GroupRow, ...]
    stages: tuple[Stage, ...]
    sparsities: dict[str, tuple[str, ...]]
    fixed: tuple[FixedRow, ...]
    reasons: tuple[ReasonRow, ...]
    candidates: float

    def to_json(self) -> dict[str, Any]:
        """``niwaki space MODEL --json`` prints this beside ``schema`` (1) and ``model``; keys are only ever added.

        Every key is an attribute above, every object in a list one of :class:`GroupRow`, :class:`Stage`,
        :class:`FixedRow` and :class:`ReasonRow`; costs are objects of ``macs``, ``params``, ``bytes`` and
        ``latency_ms`` (null here), ``memory_bytes``.
        """
        return asdict(self)


def explain(space: Space) -> SpaceReport:
    """Measure a space: what a part holds is what the model loses when all of its units go.

    Example:
        >>> import torch
        >>> from niwaki.spaces import derive
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
        >>> report = explain(derive(net, torch.zeros(2, 8)))
        >>> report.cuttable_macs, [(f.name, f.reason) for f in report.fixed]
        (1.0, [('2', 'feeds the output')])
    """
    everything = [[g.name] for g in space.groups]
    widths = _without(space.table, space.groups, [*everything, [g.name for g in space.groups]], space)
    stages = _stages(space)
    fixed, reasons = _fixed(space)
    return SpaceReport(
        teacher=space.cost(space.largest()),
        smallest=space.cost(space.smallest()),
        cuttable_macs=float(widths[0, -1]),
        cuttable_params=float(widths[1, -1]),
        removable_macs=sum(s.macs for s in stages),
        removable_params=sum(s.params for s in stages),
        groups=tuple(_group(space, g, widths[:, i]) for i, g in enumerate(space.groups)),
        stages=stages,
        sparsities=dict(space.sparsities),
        fixed=fixed,
        reasons=reasons,
        candidates=float(sum(np.log10(len(v.choices)) for v in space.variables)),
    )


def _group(space: Space, group: Group, shares: Floats) -> GroupRow:
    tied = next((names for names in space.ties if group.name in names), ())
    return GroupRow(
        group.name,
        tuple(dict.fromkeys(s.tensor.rsplit(".", 1)[0] for s in group.slices if s.side == "produces")),
        group.units,
        group.choices,
        float(shares[0]),
        float(shares[1]),
        group.exact,
        group.stream,
        tuple(n for n in tied if n != group.name),
    )


def _stages(space: Space) -> tuple[Stage, ...]:
    """What goes when all blocks of a stage but the least go (a block inside another one is not counted twice)."""
    full = np.array([[g.units] for g in space.groups], dtype=np.int64).reshape(len(space.groups), 1)
    gone = [set(blocks[space.least[s] :]) for s, blocks in space.stages.items()]
    rows = [set[str](), *(set[str]().union(*gone[: i + 1]) for i in range(len(gone)))]
    alive = {b.name: np.array([b.name not in row for row in rows]) for b in space.blocks}
    costs = space.table.costs(Selection(np.repeat(full, len(rows), axis=1), alive, {}))
    macs, params = (-np.diff(c) / max(1, int(c[0])) for c in (costs.macs, costs.params))
    return tuple(
        Stage(s, blocks, space.least[s], float(macs[i]), float(params[i]))
        for i, (s, blocks) in enumerate(space.stages.items())
    )


def _fixed(space: Space) -> tuple[tuple[FixedRow, ...], tuple[ReasonRow, ...]]:
    """Costs with the fixed parts as if they were groups: what goes with each of them, and with all of one reason."""
    parts = [f for f in space.fixed if f.name in space.plan.pinned]
    by_reason: dict[str, list[Fixed]] = {}
    for f in space.fixed:
        by_reason.setdefault(f.reason, []).append(f)
    groups = tuple(Group(f.name, f.units, (f.units,), ()) for f in parts)
    table = CostTable.compile(replace(space.plan, atoms=space.plan.pinned), groups)
    sets = [[f.name] for f in space.fixed] + [[f.name for f in some] for some in by_reason.values()]
    shares = _without(table, groups, sets, space)
    n = len(space.fixed)
    rows = [FixedRow(f.name, f.units, f.reason, f.where, *shares[:, i].tolist()) for i, f in enumerate(space.fixed)]
    reasons = [
        ReasonRow(
            reason,
            tuple(f.name for f in some),
            sum(f.units for f in some),
            tuple(dict.fromkeys(f.where for f in some if f.where)),
            *shares[:, n + i].tolist(),
        )
        for i, (reason, some) in enumerate(by_reason.items())
    ]
    return tuple(rows), tuple(sorted(reasons, key=lambda r: -r.params))


def _without(table: CostTable, groups: tuple[Group, ...], sets: list[list[str]], space: Space) -> Floats:
    """Shares of MACs and parameters, ``(2, sets)``, that are gone when all groups of a set have no unit left."""
    full = np.array([[g.units] for g in groups], dtype=np.int64).reshape(len(groups), 1)
    widths: Ints = np.repeat(full, len(sets) + 1, axis=1)
    row = {g.name: i for i, g in enumerate(groups)}
    for column, names in enumerate(sets):
        widths[[row[n] for n in names if n in row], column] = 0
    alive = {b.name: np.ones(len(sets) + 1, dtype=np.bool_) for b in space.blocks}
    costs = table.costs(Selection(widths, alive, {}))
    return np.stack([1 - c[:-1] / max(1, int(c[-1])) for c in (costs.macs, costs.params)])
