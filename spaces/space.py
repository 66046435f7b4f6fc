"""The Space: what may be chosen, and every figure that follows from a choice without building the model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from niwaki.spaces.axes import Atom
from niwaki.spaces.blocks import Cone
from niwaki.spaces.cost import Costs, CostTable, Ints, LayerRow, Selection
from niwaki.spaces.errors import InputError, nearest
from niwaki.spaces.passes import Analysis
from niwaki.spaces.trace import Mode, Program, batch_of_two
from niwaki.spaces.types import Block, Candidate, Cost, Group, Variable


@dataclass(frozen=True)
class Fixed:
    """Units that a search may not remove, and why."""

    name: str
    units: int
    reason: str


@dataclass(eq=False)
class Plan:
    """What carving needs beside the choices: graphs, dimensions, blocks' nodes; not part of the public interface."""

    programs: dict[Mode, Program]
    analysis: Analysis
    cones: dict[Mode, dict[str, Cone]]
    atoms: dict[str, Atom]
    kinds: dict[str, tuple[bool, int]]
    example: tuple[Tensor, ...]
    memory: dict[str, Any] = field(default_factory=dict)

    @property
    def example_pair(self) -> tuple[Tensor, ...]:
        """The example with the batch that was traced."""
        return tuple(batch_of_two(e) for e in self.example)

    def block_sets(self) -> dict[fx.Node, frozenset[str]]:
        """Node -> the removable blocks it lies in (both graphs)."""
        found: dict[fx.Node, set[str]] = {}
        for cones in self.cones.values():
            for cone in cones.values():
                for node in cone.nodes:
                    found.setdefault(node, set()).add(cone.name)
        return {n: frozenset(b) for n, b in found.items()}

    def users(self, key: str, blocks: Mapping[fx.Node, frozenset[str]]) -> tuple[frozenset[str], ...]:
        """For every operation that reads the tensor, the blocks it lies in."""
        return tuple(
            {
                blocks.get(user, frozenset())
                for program in self.programs.values()
                for node in program.graph.nodes
                if program.keys.get(node.name) == key
                for user in node.users
            }
        )


@dataclass(frozen=True, eq=False)
class Space:
    """Widths per group, removable blocks per stage, sparsity per layer, and why the rest is fixed.

    Attributes:
        groups: units that go together.
        blocks: removable residual blocks; a stage keeps its first k.
        least: stage -> how many of its removable blocks must stay.
        sparsities: layer -> tokens, sparsest first, ``dense`` last.
        fixed: what may not shrink, with the reason.
    """

    groups: tuple[Group, ...]
    blocks: tuple[Block, ...]
    least: Mapping[str, int]
    sparsities: Mapping[str, tuple[str, ...]]
    fixed: tuple[Fixed, ...]
    table: CostTable = field(repr=False)
    plan: Plan = field(repr=False)

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
    def variables(self) -> tuple[Variable, ...]:
        """Every decision, in the order of the index vectors: widths, then depths, then sparsities."""
        depths = [Variable(s, "depth", tuple(range(self.least[s], len(b) + 1))) for s, b in self.stages.items()]
        return (
            *(Variable(g.name, "width", g.choices) for g in self.groups),
            *(d for d in depths if len(d.choices) > 1),
            *(Variable(name, "sparsity", tokens) for name, tokens in self.sparsities.items()),
        )

    @cached_property
    def digest(self) -> str:
        """Twelve hexadecimal digits that change with any choice on offer or shape of the model."""
        text = json.dumps(self.to_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def decode(self, indices: Sequence[int] | Ints) -> Candidate:
        """The candidate behind an index vector (one index into each variable's choices)."""
        widths: dict[str, int] = {}
        skipped: set[str] = set()
        sparsity: dict[str, str] = {}
        for variable, index in zip(self.variables, indices, strict=True):
            choice = variable.choices[int(index)]
            if variable.kind == "width":
                widths[variable.name] = int(choice)
            elif variable.kind == "depth":
                skipped.update(self.stages[variable.name][int(choice) :])
            else:
                sparsity[variable.name] = str(choice)
        return Candidate(widths, frozenset(skipped), sparsity)

    def encode(self, candidate: Candidate) -> list[int]:
        """Inverse of :meth:`decode`; InputError names the first choice that is not on offer."""
        self._check_names(candidate)
        self.check_depth(candidate)
        out = []
        for v in self.variables:
            choice: int | str
            if v.kind == "width":
                choice = candidate.widths[v.name]
            elif v.kind == "depth":
                choice = self._kept_blocks(candidate, v.name)
            else:
                choice = candidate.sparsity.get(v.name, "dense")
            if choice not in v.choices:
                raise InputError(f"candidate: {v.kind} of {v.name!r} is {choice!r}, on offer: {list(v.choices)}")
            out.append(v.choices.index(choice))
        return out

    def _kept_blocks(self, candidate: Candidate, stage: str) -> int:
        blocks = self.stages[stage]
        gone = [b in candidate.skipped for b in blocks]
        if gone != sorted(gone):
            raise InputError(
                f"candidate: stage {stage!r} keeps its first blocks, but {sorted(candidate.skipped)} are skipped"
            )
        return len(blocks) - sum(gone)

    def check_depth(self, candidate: Candidate) -> None:
        """InputError unless every stage keeps its first blocks, and enough of them."""
        for stage, least in self.least.items():
            if self._kept_blocks(candidate, stage) < least:
                raise InputError(f"candidate.skipped: stage {stage!r} must keep {least} of {list(self.stages[stage])}")

    def _check_names(self, candidate: Candidate) -> None:
        names = {"widths": set(self.widths), "skipped": {b.name for b in self.blocks}, "sparsity": set(self.sparsities)}
        for part, known in names.items():
            for name in getattr(candidate, part):
                if name not in known:
                    raise InputError(f"candidate.{part}: unknown name {name!r}; {nearest(name, known)}")
        for group in self.groups:
            width = candidate.widths.get(group.name)
            if width is None:
                raise InputError(f"candidate.widths: {group.name!r} is missing")
            if not 1 <= width <= group.units:
                raise InputError(f"candidate.widths: {group.name!r} has {group.units} units, asked for {width}")
        for name, token in candidate.sparsity.items():
            if token not in self.sparsities[name]:
                raise InputError(f"candidate.sparsity: {name!r} is {token!r}, on offer: {list(self.sparsities[name])}")

    def largest(self) -> Candidate:
        """Everything kept: the teacher itself."""
        return self.decode([len(v.choices) - 1 for v in self.variables])

    def smallest(self) -> Candidate:
        """The first choice everywhere."""
        return self.decode([0] * len(self.variables))

    def uniform(self, ratio: float, stream: float | None = None) -> Candidate:
        """Every group at the choice nearest to ``ratio`` of its units; full depth, dense.

        ``stream``: another ratio for the groups of residual streams.
        """

        def nearest(group: Group) -> int:
            wanted = group.units * (stream if group.stream and stream is not None else ratio)
            return min(group.choices, key=lambda w: (abs(w - wanted), w))

        return Candidate({g.name: nearest(g) for g in self.groups})

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

        def dead(sets: tuple[frozenset[str], ...]) -> bool:
            return bool(sets) and all(s & candidate.skipped for s in sets)

        widths = {g.name: g.units if dead(self._group_users[g.name]) else candidate.widths[g.name] for g in self.groups}
        sparsity = {n: t for n, t in candidate.sparsity.items() if not dead(users[f"{n}.weight"])}
        return replace(candidate, widths=widths, sparsity=sparsity)

    def select(self, candidates: Ints | Sequence[Candidate]) -> Selection:
        """Candidates, or an (N, variables) matrix of indices, as the arrays that costs are computed from."""
        if isinstance(candidates, np.ndarray):
            return self._select_matrix(candidates)
        for c in candidates:
            self._check_names(c)
        widths = np.array([[c.widths[g.name] for c in candidates] for g in self.groups], dtype=np.int64)
        alive = {b.name: np.array([b.name not in c.skipped for c in candidates]) for b in self.blocks}
        tokens: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
        for name, choices in self.sparsities.items():
            mine = [c.sparsity.get(name, "dense") for c in candidates]
            tokens[name] = {t: np.array([m == t for m in mine]) for t in choices if t != "dense" and t in mine}
        return Selection(widths.reshape(len(self.groups), len(candidates)), alive, tokens)

    def _select_matrix(self, matrix: Ints) -> Selection:
        columns = np.ascontiguousarray(matrix.T)
        widths = np.empty((len(self.groups), matrix.shape[0]), dtype=np.int64)
        alive = {b.name: np.ones(matrix.shape[0], dtype=np.bool_) for b in self.blocks}
        tokens: dict[str, dict[str, Any]] = {}
        for i, v in enumerate(self.variables):
            if v.kind == "width":
                widths[i] = np.asarray(v.choices)[columns[i]]
            elif v.kind == "depth":
                kept = np.asarray(v.choices)[columns[i]]
                for position, block in enumerate(self.stages[v.name]):
                    alive[block] = kept > position
            else:
                tokens[v.name] = {str(t): columns[i] == k for k, t in enumerate(v.choices) if t != "dense"}
        return Selection(widths, alive, tokens)

    def costs(self, candidates: Ints | Sequence[Candidate]) -> Costs:
        """Exact costs of N candidates, given as Candidates or as an (N, variables) int64 matrix of indices.

        Returns (N,) int64 arrays: MACs of one example, parameters, stored bytes.
        """
        return self.table.costs(self.select(candidates))

    def cost(self, candidate: Candidate) -> Cost:
        """Exact cost of one candidate; equals ``count`` of the carved model."""
        c = self.costs([candidate])
        return Cost(int(c.macs[0]), int(c.params[0]), int(c.bytes[0]))

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
            "fixed": [{"name": f.name, "units": f.units, "reason": f.reason} for f in self.fixed],
        }
