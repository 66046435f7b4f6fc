"""What may be cut in a model, what may not, and why: the figures behind ``niwaki space``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from niwaki.spaces.cost import Ints, Selection
from niwaki.spaces.space import Fixed, Space
from niwaki.spaces.types import Cost


@dataclass(frozen=True)
class GroupRow:
    """One group: the layers it ties, widths on offer, and the share of the model's MACs its units take part in."""

    name: str
    layers: tuple[str, ...]
    units: int
    choices: tuple[int, ...]
    share: float


@dataclass(frozen=True)
class SpaceReport:
    """All of ``niwaki space``. Shares are fractions of the teacher's MACs or parameters.

    Attributes:
        teacher: cost of the whole model (MACs of one example).
        smallest: cost of the smallest candidate.
        cuttable_macs: share of MACs in operations with at least one group (1 - share that no width can reduce).
        cuttable_params: the same for parameters.
        groups: one row each.
        stages: stage -> (removable blocks, how many must stay).
        sparsities: layer -> tokens.
        fixed: what may not shrink and why.
        candidates: how many different choices there are, as a power of ten.
    """

    teacher: Cost
    smallest: Cost
    cuttable_macs: float
    cuttable_params: float
    groups: tuple[GroupRow, ...]
    stages: dict[str, tuple[tuple[str, ...], int]]
    sparsities: dict[str, tuple[str, ...]]
    fixed: tuple[Fixed, ...]
    candidates: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def explain(space: Space) -> SpaceReport:
    """Measure a space: a group's share is what the MACs lose when its width is 0."""
    full = np.array([g.units for g in space.groups], dtype=np.int64)
    n = len(space.groups)
    widths = np.repeat(full[:, None], n + 2, axis=1)
    widths[np.arange(n), np.arange(n)] = 0
    widths[:, n] = 0
    costs = space.table.costs(_dense(space, widths))
    macs, params = costs.macs / max(1, costs.macs[n + 1]), costs.params / max(1, costs.params[n + 1])
    rows = tuple(
        GroupRow(g.name, _layers(g.slices), g.units, g.choices, float(1 - macs[i])) for i, g in enumerate(space.groups)
    )
    return SpaceReport(
        teacher=space.cost(space.largest()),
        smallest=space.cost(space.smallest()),
        cuttable_macs=float(1 - macs[n]),
        cuttable_params=float(1 - params[n]),
        groups=rows,
        stages={s: (b, space.least[s]) for s, b in space.stages.items()},
        sparsities=dict(space.sparsities),
        fixed=space.fixed,
        candidates=float(sum(np.log10(len(v.choices)) for v in space.variables)),
    )


def _dense(space: Space, widths: Ints) -> Selection:
    alive = {b.name: np.ones(widths.shape[1], dtype=np.bool_) for b in space.blocks}
    return Selection(widths, alive, {})


def _layers(slices: tuple[Any, ...]) -> tuple[str, ...]:
    """Layers whose outputs are the group's units (producers first named, each once)."""
    return tuple(dict.fromkeys(s.tensor.rsplit(".", 1)[0] for s in slices if s.side == "produces"))
