"""What a distribution over candidates costs, as a function of its probabilities that can be differentiated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from niwaki.search.costing import Costing, Floats, Ints
from niwaki.search.tas.sampling import label
from niwaki.spaces import Space

Probabilities = Mapping[str, Tensor]
"""Label of a variable -> (choices,) probabilities; a variable that is absent has one choice, or stays as it is."""


class Expectation:
    """The logarithm of the expected cost, for every budget that a run has.

    MACs: the space's own polynomials at the expected widths, each operation times the probability that its blocks
    stay (TAS, section 3.2, equation 7). Anything else (predicted latency, bytes, memory), of which only values at whole
    candidates are known: the cost of the likeliest candidate times, for each variable, the expected ratio by which
    changing that variable alone changes it. This is exact where one variable is uncertain and of first order else.

    Example:
        >>> from niwaki.spaces import derive
        >>> space = derive(torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)), torch.randn(2, 8))
        >>> half = {label(v): torch.full((len(v.choices),), 1 / len(v.choices)) for v in space.variables}
        >>> expected = Expectation(Costing(space), ["macs"])(np.array([0]), half)["macs"].exp()
        >>> mean = sum(space.variables[0].choices) / len(space.variables[0].choices)
        >>> abs(float(expected) - (8 + 4) * mean) < 1e-3
        True
    """

    def __init__(self, costing: Costing, names: Sequence[str]) -> None:
        self.costing, self.names = costing, tuple(names)
        self._at: tuple[int, ...] = ()
        self._ratios: dict[str, list[Tensor]] = {}
        self._base: dict[str, float] = {}

    def __call__(self, likeliest: Ints, probabilities: Probabilities) -> dict[str, Tensor]:
        """``likeliest``: (variables,) choice indices. Budget -> log of the expected ms, MACs or bytes."""
        space = self.costing.space
        exact = isinstance(space, Space)
        found = {}
        if exact and "macs" in self.names:
            found["macs"] = expected_macs(space, probabilities).log()  # type: ignore[arg-type]
        if len(found) < len(self.names):
            self._tabulate(likeliest)
        for name in self.names:
            if name not in found:
                factors = [
                    (probabilities[label(v)] * ratios.to(probabilities[label(v)])).sum().log()
                    for v, ratios in zip(space.variables, self._ratios[name], strict=True) if label(v) in probabilities
                ]  # fmt: skip
                found[name] = torch.stack(factors).sum() + float(np.log(self._base[name]))
        return found

    def _tabulate(self, likeliest: Ints) -> None:
        """Costs of the candidate and of all that differ from it in one variable; kept until the candidate changes."""
        if self._at == tuple(likeliest.tolist()):
            return
        sizes = [len(v.choices) for v in self.costing.space.variables]
        rows = np.repeat(likeliest[None], 1 + sum(sizes), axis=0)
        rows[np.arange(1, len(rows)), np.repeat(np.arange(len(sizes)), sizes)] = [i for n in sizes for i in range(n)]
        costs: dict[str, Floats] = self.costing(rows)
        for name in self.names:
            self._base[name] = float(costs[name][0])
            ratios = torch.from_numpy(np.maximum(costs[name][1:] / costs[name][0], 1e-6))
            self._ratios[name] = list(torch.split(ratios, sizes))
        self._at = tuple(likeliest.tolist())


def expected_macs(space: Space, probabilities: Probabilities) -> Tensor:
    """Scalar: the MACs of one example at the expected widths, operations weighed by the chance that they stay."""
    given = next(iter(probabilities.values()), torch.ones(1))
    widths: dict[str, Any] = {g.name: given.new_tensor(float(g.units), dtype=torch.float64) for g in space.groups}
    for v in space.variables:
        if v.kind == "width" and label(v) in probabilities:
            choices = torch.tensor(v.choices, dtype=torch.float64, device=given.device)
            widths.update(dict.fromkeys(space.members[v.name], (probabilities[label(v)].double() * choices).sum()))
    columns: Any = [widths[g.name] for g in space.groups]
    staying = _chances(space, probabilities)
    memo: dict[Any, Any] = {}
    total = given.new_zeros((), dtype=torch.float64)
    for row in space.table.rows:
        macs: Any = float(bool(row.factors))
        for factor in row.factors:
            macs = macs * factor(columns, memo)
        summed: Any = 1.0
        for factor in row.summed:
            summed = summed * factor(columns, memo)
        if not row.summed or float(summed) > 1:
            total = total + macs * staying(row.blocks)
    return total


def _chances(space: Space, probabilities: Probabilities) -> Any:
    """Blocks -> the probability that all of them stay: of one stage, that of the last; stages are independent."""
    place = {b.name: b for b in space.blocks}
    stages = {v.name: v for v in space.variables if v.kind == "depth" and label(v) in probabilities}

    def staying(blocks: frozenset[str]) -> Any:
        last: dict[str, int] = {}
        for block in (place[name] for name in blocks):
            last[block.stage] = max(last.get(block.stage, 0), block.position)
        chance: Any = 1.0
        for stage, position in last.items():
            if stage in stages:
                chances = probabilities[label(stages[stage])].double()
                enough = torch.tensor([int(k) > position for k in stages[stage].choices], device=chances.device)
                chance = chance * chances[enough].sum()
        return chance

    return staying
