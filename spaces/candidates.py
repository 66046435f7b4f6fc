"""Whether a candidate belongs to a space, and candidates as the arrays that costs are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from niwaki.spaces.cost import Ints, Selection
from niwaki.spaces.errors import InputError, nearest
from niwaki.spaces.types import Candidate

if TYPE_CHECKING:
    from niwaki.spaces.space import Space


def check_names(space: Space, candidate: Candidate) -> None:
    """InputError for a name that the space does not know, a width that is missing or impossible, a wrong token."""
    names = {"widths": set(space.widths), "skipped": {b.name for b in space.blocks}, "sparsity": set(space.sparsities)}
    for part, known in names.items():
        for name in getattr(candidate, part):
            if name not in known:
                raise InputError(f"candidate.{part}: unknown name {name!r}; {nearest(name, known)}")
    for group in space.groups:
        width = candidate.widths.get(group.name)
        if width is None:
            raise InputError(f"candidate.widths: {group.name!r} is missing")
        if not 1 <= width <= group.units:
            raise InputError(f"candidate.widths: {group.name!r} has {group.units} units, asked for {width}")
    for name, token in candidate.sparsity.items():
        if token not in space.sparsities[name]:
            raise InputError(f"candidate.sparsity: {name!r} is {token!r}, on offer: {list(space.sparsities[name])}")


def check_ties(space: Space, candidate: Candidate) -> None:
    """InputError where two groups that are tied keep unequal numbers of units; the candidate's names are known."""
    for first, *others in space.ties:
        width = candidate.widths[first]
        for name in others:
            if candidate.widths[name] != width:
                raise InputError(
                    f"candidate.widths: {first!r} and {name!r} are tied, but keep {width} and "
                    f"{candidate.widths[name]} units"
                )


def kept_blocks(space: Space, candidate: Candidate, stage: str) -> int:
    """How many removable blocks of a stage stay; InputError unless they are its first ones."""
    blocks = space.stages[stage]
    gone = [b in candidate.skipped for b in blocks]
    if gone != sorted(gone):
        raise InputError(
            f"candidate: stage {stage!r} keeps its first blocks, but {sorted(candidate.skipped)} are skipped"
        )
    return len(blocks) - sum(gone)


def check_depth(space: Space, candidate: Candidate) -> None:
    """InputError unless every stage keeps its first blocks, and enough of them."""
    for stage, least in space.least.items():
        if kept_blocks(space, candidate, stage) < least:
            raise InputError(f"candidate.skipped: stage {stage!r} must keep {least} of {list(space.stages[stage])}")


def select(space: Space, candidates: Sequence[Candidate]) -> Selection:
    """N candidates as arrays; any width of 1..units is taken, on offer or not."""
    for c in candidates:
        check_names(space, c)
    widths = np.array([[c.widths[g.name] for c in candidates] for g in space.groups], dtype=np.int64)
    alive = {b.name: np.array([b.name not in c.skipped for c in candidates]) for b in space.blocks}
    tokens: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
    for name, choices in space.sparsities.items():
        mine = [c.sparsity.get(name, "dense") for c in candidates]
        tokens[name] = {t: np.array([m == t for m in mine]) for t in choices if t != "dense" and t in mine}
    return Selection(widths.reshape(len(space.groups), len(candidates)), alive, tokens)


def select_matrix(space: Space, matrix: Ints) -> Selection:
    """The rows of an (N, variables) matrix of indices as arrays."""
    columns = np.ascontiguousarray(matrix.T)
    row = {g.name: i for i, g in enumerate(space.groups)}
    widths = np.empty((len(space.groups), matrix.shape[0]), dtype=np.int64)
    alive = {b.name: np.ones(matrix.shape[0], dtype=np.bool_) for b in space.blocks}
    tokens: dict[str, dict[str, Any]] = {}
    for i, v in enumerate(space.variables):
        if v.kind == "width":
            widths[[row[n] for n in space.members[v.name]]] = np.asarray(v.choices)[columns[i]]
        elif v.kind == "depth":
            kept = np.asarray(v.choices)[columns[i]]
            for position, block in enumerate(space.stages[v.name]):
                alive[block] = kept > position
        else:
            tokens[v.name] = {str(t): columns[i] == k for k, t in enumerate(v.choices) if t != "dense"}
    return Selection(widths, alive, tokens)
