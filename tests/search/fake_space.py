"""A small space with the interface of niwaki.spaces.Space: a chain of layers in stages, polynomial costs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from niwaki.spaces.types import Candidate, Cost, Variable


@dataclass(frozen=True)
class FakeCosts:
    macs: Any
    params: Any
    bytes: Any


class FakeSpace:
    """``stages`` stages of ``blocks`` layers of ``units`` units (doubling), the last block of a stage removable.

    Layer ``i`` costs ``w[i-1] * w[i]`` parameters and ``positions`` times as many MACs. The layers named in ``sparse``
    may be half sparse, which counts towards bytes alone.
    """

    def __init__(self, stages: int = 3, blocks: int = 3, units: int = 16, sparse: int = 2, choices: int = 8) -> None:
        self.stages, self.blocks = stages, blocks
        self.layers = [f"s{s}.b{b}" for s in range(stages) for b in range(blocks)]
        self.full = np.array([units * 2**s for s in range(stages) for _ in range(blocks)])
        self.positions = np.array([256 // 4**s for s in range(stages) for _ in range(blocks)])
        ratios = np.linspace(0.3, 1.0, choices)
        self.widths = {n: tuple(sorted({max(1, round(r * f)) for r in ratios})) for n, f in
                       zip(self.layers, self.full.tolist(), strict=True)}
        self.sparse = self.layers[:sparse]
        self.variables = (
            *(Variable(n, "width", c) for n, c in self.widths.items()),
            *(Variable(f"s{s}", "depth", (0, 1)) for s in range(stages)),
            *(Variable(n, "sparsity", ("0.5", "dense")) for n in self.sparse),
        )
        self.digest = hashlib.sha256(repr(self.variables).encode()).hexdigest()[:12]

    def removable(self, stage: int) -> str:
        return f"s{stage}.b{self.blocks - 1}"

    def encode(self, candidate: Candidate) -> list[int]:
        w = [self.widths[n].index(candidate.widths[n]) for n in self.layers]
        d = [int(self.removable(s) not in candidate.skipped) for s in range(self.stages)]
        return w + d + [int(candidate.sparsity.get(n, "dense") == "dense") for n in self.sparse]

    def decode(self, indices: Sequence[int]) -> Candidate:
        it = iter(int(i) for i in indices)
        widths = {n: self.widths[n][next(it)] for n in self.layers}
        skipped = frozenset(self.removable(s) for s in range(self.stages) if next(it) == 0)
        return Candidate(widths, skipped, {n: "dense" if next(it) else "0.5" for n in self.sparse})

    def _ends(self, last: bool) -> Candidate:
        return self.canonical(self.decode([len(v.choices) - 1 if last else 0 for v in self.variables]))

    def smallest(self) -> Candidate:
        return self._ends(last=False)

    def largest(self) -> Candidate:
        return self._ends(last=True)

    def uniform(self, ratio: float) -> Candidate:
        near = {n: min(c, key=lambda w: abs(w - ratio * c[-1])) for n, c in self.widths.items()}
        return Candidate(near)

    def sample(self, generator: torch.Generator) -> Candidate:
        draw = [int(torch.randint(len(v.choices), (), generator=generator)) for v in self.variables]
        return self.canonical(self.decode(draw))

    def contains(self, candidate: Candidate) -> bool:
        return (
            set(candidate.widths) == set(self.layers)
            and all(w in self.widths[n] for n, w in candidate.widths.items())
            and candidate.skipped <= {self.removable(s) for s in range(self.stages)}
            and all(n in self.sparse and t == "0.5" for n, t in candidate.sparsity.items())
        )

    def canonical(self, candidate: Candidate) -> Candidate:
        """What a skipped layer would have been makes no difference: it counts as full and dense."""
        widths = {n: self.widths[n][-1] if n in candidate.skipped else w for n, w in candidate.widths.items()}
        return Candidate(widths, candidate.skipped, {n: t for n, t in candidate.sparsity.items()
                                                     if n not in candidate.skipped})

    def costs(self, matrix: Any) -> FakeCosts:
        matrix = np.asarray(matrix)
        n = len(self.layers)
        table = [np.array(c) for c in self.widths.values()]
        width = np.stack([t[matrix[:, i]] for i, t in enumerate(table)], axis=1)
        params, macs, size = (np.zeros(len(matrix), dtype=np.int64) for _ in range(3))
        before = np.full(len(matrix), 3)
        for i, name in enumerate(self.layers):
            stage, block = divmod(i, self.blocks)
            alive = matrix[:, n + stage] == 1 if block == self.blocks - 1 else np.ones(len(matrix), dtype=bool)
            weights = before * width[:, i] * alive
            dense = matrix[:, n + self.stages + self.sparse.index(name)] == 1 if name in self.sparse else True
            params += weights
            macs += weights * self.positions[i]
            size += np.where(dense, 4 * weights, 2 * weights + (weights + 7) // 8)
            before = np.where(alive, width[:, i], before)
        return FakeCosts(macs, params, size)

    def memory(self, matrix: Any) -> Any:
        """4 bytes for what the widest layer makes and reads."""
        matrix = np.asarray(matrix)
        width = np.stack([np.array(c)[matrix[:, i]] for i, c in enumerate(self.widths.values())], axis=1)
        before = np.concatenate([np.full((len(matrix), 1), 3), width[:, :-1]], axis=1)
        return 4 * ((before + width) * np.array(self.positions)).max(axis=1)

    def cost(self, candidate: Candidate) -> Cost:
        row = self.costs([self.encode(candidate)])
        return Cost(int(row.macs[0]), int(row.params[0]), int(row.bytes[0]))


class FakeLatency:
    """Milliseconds that grow in steps of 4 units with a fixed cost a layer: not monotone in the parameters."""

    def __init__(self, space: FakeSpace) -> None:
        self.space = space

    def predict(self, matrix: Any) -> Any:
        matrix = np.asarray(matrix)
        table = [np.ceil(np.array(c) / 4) for c in self.space.widths.values()]
        steps = np.stack([t[matrix[:, i]] for i, t in enumerate(table)], axis=1)
        for s in range(self.space.stages):  # a layer that is skipped takes no time
            steps[:, s * self.space.blocks + self.space.blocks - 1] *= matrix[:, len(self.space.layers) + s]
        return 0.1 + (steps * np.sqrt(self.space.positions)).sum(axis=1) / 500


def accuracy(space: FakeSpace, candidate: Candidate, seed: int = 0) -> float:
    """A smooth truth that layers matter to differently: what a sampler could learn and a uniform one cannot."""
    rng = np.random.default_rng(seed)
    need = rng.choice([0.05, 0.3, 2.0], size=len(space.layers)) * rng.uniform(0.5, 1.5, len(space.layers))
    loss = 0.0
    for i, name in enumerate(space.layers):
        if name in candidate.skipped:
            loss += 0.03 * need[i]
        else:
            loss += 0.05 * need[i] * (1 - candidate.widths[name] / space.widths[name][-1]) ** 1.5
            loss += 0.01 * need[i] * (name in candidate.sparsity)
    return float(max(0.0, 0.95 - loss))
