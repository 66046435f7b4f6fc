"""The Space: what may be chosen, and every figure that follows from a choice without building the model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from niwaki.spaces.candidates import check_depth, check_names, check_ties, kept_blocks, select, select_matrix
from niwaki.spaces.cost import Costs, CostTable, Ints, LayerRow, Selection
from niwaki.spaces.errors import InputError
from niwaki.spaces.peaks import Peaks
from niwaki.spaces.plan import Plan
from niwaki.spaces.types import Block, Candidate, Cost, Fixed, Group, Variable


@dataclass(frozen=True, eq=False)
class Space:
    """Widths per group, removable blocks per stage, sparsity per layer, and why the rest is fixed.

    Attributes:
        groups: units that go together.
        blocks: removable residual blocks; a stage keeps its first k.
        least: stage -> how many of its removable blocks must stay.
        sparsities: layer -> tokens, sparsest first, ``dense`` last.
        fixed: what may not shrink, with the reason.
        ties: classes of groups that keep equally many units; each class is one variable, named after its first group.
        peaks: peak memory of activations; None where it depends on data.
    """

    groups: tuple[Group, ...]
    blocks: tuple[Block, ...]
    least: Mapping[str, int]
    sparsities: Mapping[str, tuple[str, ...]]
    fixed: tuple[Fixed, ...]
    table: CostTable = field(repr=False)
    plan: Plan = field(repr=False)
    ties: tuple[tuple[str, ...], ...] = ()
    peaks: Peaks | None = field(default=None, repr=False)

    @cached_property
    def widths(self) -> dict[str, tuple[int, ...]]:
        """Group -> widths on offer, ascending."""
        return {g.name: g.choices for g in self.groups}

    @cached_property
    def stages(self) -> dict[str, tuple[str, ...]]:
        """Stage -> its removable blocks, first to last."""
        found: dict[str, list[str]] = {}
        for block in self.blocks:
            found.setdefault(block.stage, []).append(block.name)
        return {s: tuple(b) for s, b in found.items()}

    @cached_property
    def members(self) -> dict[str, tuple[str, ...]]:
        """Width variable -> the groups that it decides about: one, or those of a tie."""
        first = {names[0]: names for names in self.ties}
        later = {n for names in self.ties for n in names[1:]}
        return {g.name: first.get(g.name, (g.name,)) for g in self.groups if g.name not in later}

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        """Every decision, in the order of the index vectors: widths, then depths, then sparsities."""
        depths = [Variable(s, "depth", tuple(range(self.least[s], len(b) + 1))) for s, b in self.stages.items()]
        return (
            *(Variable(name, "width", self.widths[name]) for name in self.members),
            *(d for d in depths if len(d.choices) > 1),
            *(Variable(name, "sparsity", tokens) for name, tokens in self.sparsities.items()),
        )

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits that change with any choice on offer or shape of the model."""
        content = self.to_json()
        content["fixed"] = [[f.name, f.units] for f in self.fixed]  # reasons name lines of code, which move
        text = json.dumps(content, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def decode(self, indices: Sequence[int] | Ints) -> Candidate:
        """The candidate behind an index vector (one index into each variable's choices)."""
        widths: dict[str, int] = {}
        skipped: set[str] = set()
        sparsity: dict[str, str] = {}
        for variable, index in zip(self.variables, indices, strict=True):
            choice = variable.choices[int(index)]
            if variable.kind == "width":
                widths.update(dict.fromkeys(self.members[variable.name], int(choice)))
            elif variable.kind == "depth":
                skipped.update(self.stages[variable.name][int(choice) :])
            else:
                sparsity[variable.name] = str(choice)
        return Candidate(widths, frozenset(skipped), sparsity)

    def encode(self, candidate: Candidate) -> list[int]:
        """Inverse of :meth:`decode`; InputError names the first choice that is not on offer."""
        check_names(self, candidate)
        check_depth(self, candidate)
        check_ties(self, candidate)
        out = []
        for v in self.variables:
            choice: int | str
            if v.kind == "width":
                choice = candidate.widths[v.name]
            elif v.kind == "depth":
                choice = kept_blocks(self, candidate, v.name)
            else:
                choice = candidate.sparsity.get(v.name, "dense")
            if choice not in v.choices:
                raise InputError(f"candidate: {v.kind} of {v.name!r} is {choice!r}, on offer: {list(v.choices)}")
            out.append(v.choices.index(choice))
        return out

    def check_depth(self, candidate: Candidate) -> None:
        """InputError unless every stage keeps its first blocks, and enough of them."""
        check_depth(self, candidate)

    def largest(self) -> Candidate:
        """Everything kept: the teacher itself."""
        return self.decode([len(v.choices) - 1 for v in self.variables])

    def smallest(self) -> Candidate:
        """The first choice everywhere."""
        return self.decode([0] * len(self.variables))

    def uniform(self, ratio: float, stream: float | None = None) -> Candidate:
        """Every group at the choice nearest to ``ratio`` of its units; full depth, dense.

        ``stream``: another ratio for the groups of residual streams, and for what is tied to one.
        """
        groups = {g.name: g for g in self.groups}
        widths: dict[str, int] = {}
        for names in self.members.values():
            streams = stream is not None and any(groups[n].stream for n in names)
            wanted = groups[names[0]].units * (stream if streams and stream is not None else ratio)
            width = min(groups[names[0]].choices, key=lambda w: (abs(w - wanted), w))
            widths.update(dict.fromkeys(names, width))
        return Candidate(widths)

    def sample(self, generator: torch.Generator) -> Candidate:
        """Every variable drawn uniformly from its choices."""
        return self.decode([int(torch.randint(len(v.choices), (), generator=generator)) for v in self.variables])

    def contains(self, candidate: Candidate) -> bool:
        """Whether every choice is on offer here."""
        try:
            self.encode(candidate)
        except InputError:
            return False
        return True

    def neighbours(self, candidate: Candidate) -> Iterator[Candidate]:
        """Candidates one step away in one variable."""
        indices = self.encode(candidate)
        for i, variable in enumerate(self.variables):
            for step in (-1, 1):
                if 0 <= indices[i] + step < len(variable.choices):
                    yield self.decode([*indices[:i], indices[i] + step, *indices[i + 1 :]])

    @cached_property
    def _group_users(self) -> dict[str, tuple[frozenset[str], ...]]:
        users = {t.key: t.users for t in self.table.tensors}
        return {g.name: tuple({u for s in g.slices for u in users[s.tensor]}) for g in self.groups}

    def canonical(self, candidate: Candidate) -> Candidate:
        """Choices about parts that skipped blocks take away become the largest: equal models, equal candidates."""
        if not candidate.skipped:
            return candidate
        users = {t.key: t.users for t in self.table.tensors}
        full = {g.name: g.units for g in self.groups}

        def dead(sets: tuple[frozenset[str], ...]) -> bool:
            return bool(sets) and all(s & candidate.skipped for s in sets)

        widths = dict(candidate.widths)
        for names in self.members.values():
            if all(dead(self._group_users[n]) for n in names):  # what is tied to a living group stays like it
                widths |= {n: full[n] for n in names}
        sparsity = {n: t for n, t in candidate.sparsity.items() if not dead(users[f"{n}.weight"])}
        return replace(candidate, widths=widths, sparsity=sparsity)

    def select(self, candidates: Ints | Sequence[Candidate]) -> Selection:
        """Candidates, or an (N, variables) matrix of indices, as the arrays that costs are computed from."""
        return select_matrix(self, candidates) if isinstance(candidates, np.ndarray) else select(self, candidates)

    def costs(self, candidates: Ints | Sequence[Candidate]) -> Costs:
        """Exact costs of N candidates, given as Candidates or as an (N, variables) int64 matrix of indices.

        Returns (N,) int64 arrays: MACs of one example, parameters, stored bytes.
        """
        return self.table.costs(self.select(candidates))

    def memory(self, candidates: Ints | Sequence[Candidate]) -> Ints:
        """Peak bytes of live activation tensors, for one example in eval mode: (N,) int64, as ``measured_peak`` finds.

        Where candidates can only be carved as generated source, which holds nothing longer than it must, the figure is
        an upper bound until :func:`niwaki.spaces.memory.settle` has found that out.
        """
        if self.peaks is None:
            raise InputError("memory: the operations of this model cannot be followed without data")
        return self.peaks(self.select(candidates))

    def cost(self, candidate: Candidate) -> Cost:
        """Exact cost of one candidate; equals ``count`` of the carved model."""
        c = self.costs([candidate])
        peak = None if self.peaks is None else int(self.memory([candidate])[0])
        return Cost(int(c.macs[0]), int(c.params[0]), int(c.bytes[0]), memory_bytes=peak)

    def layers(self, candidates: Ints | Sequence[Candidate]) -> list[LayerRow]:
        """Sizes of every operation for N candidates (see :class:`LayerRow`), for latency models."""
        return self.table.layers(self.select(candidates))

    def to_json(self) -> dict[str, Any]:
        """What is on offer, readable by hand (``space.json``)."""
        return {
            "groups": [
                {
                    "name": g.name,
                    "units": g.units,
                    "choices": list(g.choices),
                    "exact": g.exact,
                    "slices": [[s.tensor, s.dim, s.side] for s in g.slices],
                }
                for g in self.groups
            ],
            "stages": {s: {"blocks": list(b), "least": self.least[s]} for s, b in self.stages.items()},
            "sparsities": {n: list(t) for n, t in self.sparsities.items()},
            "ties": [list(names) for names in self.ties],
            "fixed": [asdict(f) for f in self.fixed],
        }
