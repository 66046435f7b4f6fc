"""Whether the user's own class survives a cut: decided by running both."""

from __future__ import annotations

import copy
from collections.abc import Set

import torch
from torch import Tensor, nn

from niwaki.spaces.cut import Cut
from niwaki.spaces.space import Space
from niwaki.spaces.trace import Mode
from niwaki.spaces.types import Candidate, Kept

TOLERANCE = {torch.float64: 1e-9}
"""Relative; 1e-5 for every other type."""


def keeps_class(model: nn.Module, space: Space, skipped: Set[str] = frozenset()) -> bool:
    """Whether sliced copies of the user's class, without the skipped blocks, compute what the carved graph computes.

    Decided once per space (and once more for candidates that skip blocks) by running both: a size that is baked into
    the user's Python shows as an exception or as other numbers. Only a block whose module is left with its input can
    become nn.Identity; one with a projection, or that is no more than the branch of an addition, takes the graph.
    """
    whole = _whole_blocks(space) if skipped else frozenset()
    if not skipped <= whole:
        return False
    name = "keeps_class_without_blocks" if skipped else "keeps_class"
    if name not in space.plan.memory:
        generator = torch.Generator().manual_seed(0)
        probes = _probes(space, whole, generator)
        space.plan.memory[name] = all(_agrees(Cut(model, space, *probe)) for probe in probes)
    return bool(space.plan.memory[name])


def _whole_blocks(space: Space) -> frozenset[str]:
    """Blocks that may go and that nn.Identity could stand in for."""
    removable = {b for s, blocks in space.stages.items() for b in blocks[space.least[s] :]}
    return frozenset(b for b in removable if all(cones[b].whole for cones in space.plan.cones.values()))


def _probes(space: Space, skipped: frozenset[str], generator: torch.Generator) -> list[tuple[Candidate, Kept]]:
    """Small widths (cheap to run) in which every two groups differ at least once, with the blocks left out.

    The width of group i in probe p follows the p-th base-3 digit of i: a size that the user's code takes for equal to
    another (halves of a chunk) or for a constant cannot pass all of them.
    """
    digits = 1
    while 3**digits < len(space.groups):
        digits += 1
    probes: list[tuple[Candidate, Kept]] = []
    for p in range(digits):
        widths = {g.name: min(g.units, 1 + i // 3**p % 3) for i, g in enumerate(space.groups)}
        kept = {
            g.name: torch.randperm(g.units, generator=generator)[: widths[g.name]].sort().values for g in space.groups
        }
        probes.append((Candidate(widths, skipped), kept))
    return probes


def _agrees(cut: Cut) -> bool:
    cut.verify()
    try:
        student = cut.as_class()
    except Exception:  # the user's class does not survive; what it raised is no concern of theirs
        return False
    reference = cut.as_source()
    if student.state_dict().keys() != reference.state_dict().keys():
        return False  # a skipped branch leaves parameters behind in the class
    example = tuple(
        e.to(p.device) if (p := next(reference.parameters(), None)) is not None else e for e in cut.space.plan.example
    )
    modes: list[Mode] = [m for m in ("eval", "train") if m in cut.space.plan.programs]
    return all(_same(student, reference, example, mode) for mode in modes)


def _same(student: nn.Module, reference: nn.Module, example: tuple[Tensor, ...], mode: Mode) -> bool:
    """Eval mode in float64, where the smallest wrong factor (a scale that follows the width) stands out from rounding.

    Train mode, and code that insists on its precision, as they are: dropout draws other numbers in another precision.
    """
    wide = tuple(e.double() if e.is_floating_point() else e for e in example)
    for double, args in ((True, wide), (False, example)) if mode == "eval" else ((False, example),):
        try:
            pair = [copy.deepcopy(m).double() if double else copy.deepcopy(m) for m in (student, reference)]
            out = [_flat(_run(m, args, mode)) for m in pair]
        except Exception:  # as above
            continue
        return len(out[0]) == len(out[1]) and all(_close(a, b) for a, b in zip(*out, strict=True))
    return False


def _run(module: nn.Module, example: tuple[Tensor, ...], mode: Mode) -> object:
    """The same random numbers (dropout, stochastic depth) for every module; the caller's generator is put back."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        return module.train(mode == "train")(*example)


def _flat(value: object) -> list[Tensor]:
    return [t for t in torch.utils._pytree.tree_leaves(value) if isinstance(t, Tensor)]


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    scale = float(b.abs().max()) if b.numel() else 0.0
    return bool(((a - b).abs() <= TOLERANCE.get(a.dtype, 1e-5) * max(scale, 1e-6)).all())
