"""Carving: a new, smaller, ordinary module out of the teacher, which is left untouched."""

from __future__ import annotations

import copy
from collections.abc import Set

import torch
from torch import Tensor, nn

from niwaki.spaces import axes
from niwaki.spaces.attributes import fix_attributes
from niwaki.spaces.axes import ONE, Atom, Dim, dim_size
from niwaki.spaces.errors import InputError
from niwaki.spaces.parts import Parts
from niwaki.spaces.source import SourceModule, carved_graph, generate
from niwaki.spaces.space import Space
from niwaki.spaces.trace import Mode, module_path, restored_modes
from niwaki.spaces.types import Candidate, Kept
from niwaki.spaces.verify import verify_shapes

TOLERANCE = {torch.float64: 1e-9}
"""Relative; 1e-5 for every other type."""


def carve(model: nn.Module, space: Space, candidate: Candidate, kept: Kept | None = None) -> nn.Module:
    """Cut a candidate out of a model.

    Args:
        model: the model (or one with the same state-dict shapes) that ``space`` was derived from; not changed.
        candidate: how many units each group keeps, which blocks go. Sparsity is not applied here (it is a mask).
        kept: which units stay, group -> (width,) int64; the first ones of each group where None.

    Returns:
        A module whose state-dict keys are the model's (less the skipped blocks). Its class is the user's own where a
        copy with sliced parameters computes the same as the carved graph, else a :class:`SourceModule`.

    Raises:
        InputError: names or sizes that do not belong to the space; or torch.export refused the whole model, and its
            parts bake sizes into their Python.

    Example:
        >>> from niwaki.spaces import derive
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> space = derive(net, torch.zeros(2, 3, 8, 8))
        >>> carve(net, space, space.uniform(0.5))[0]
        Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
    """
    kept = checked(space, candidate, kept)
    cut = Cut(model, space, candidate, kept)
    if not (cut.whole or keeps_class(model, space, candidate.skipped)):
        if space.plan.parts:
            paths = [part.path for part in space.plan.parts]
            raise InputError(
                f"model {type(model).__name__}: torch.export takes only its parts {paths}, and what is left of them "
                "after a cut does not run as their own classes; keep the layers whose sizes their Python repeats"
            )
        return cut.as_source()
    student = cut.as_class()
    return student.grafted(model) if isinstance(student, Parts) else student


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


def checked(space: Space, candidate: Candidate, kept: Kept | None) -> dict[str, Tensor]:
    """Kept units for every group, validated against the candidate."""
    space.select([candidate])
    unknown = candidate.skipped - {b.name for b in space.blocks}
    if unknown:
        raise InputError(f"candidate.skipped: {sorted(unknown)} are no removable blocks of this space")
    space.check_depth(candidate)
    out = {}
    for g in space.groups:
        width = candidate.widths[g.name]
        index = torch.arange(width) if kept is None else kept[g.name].to("cpu", torch.int64)
        if (
            index.shape != (width,)
            or (width and (index.min() < 0 or index.max() >= g.units))
            or (index.diff() <= 0).any()
        ):
            raise InputError(
                f"kept[{g.name!r}]: expected {width} ascending indices below {g.units}, got {index.tolist()}"
            )
        out[g.name] = index
    return out


class Cut:
    """One candidate with its kept units, ready to be made into a module either way."""

    def __init__(self, model: nn.Module, space: Space, candidate: Candidate, kept: Kept) -> None:
        self.model = space.plan.subject(model)
        self.space = space
        self.candidate = candidate
        self.keep: dict[Atom, Tensor] = {}
        for g in space.groups:
            flags = torch.zeros(g.units, dtype=torch.bool)
            flags[kept[g.name]] = True
            if not bool(flags.all()):
                self.keep[space.plan.atoms[g.name]] = flags
        self._masks: dict[Dim, Tensor | None] = {}

    def mask(self, dim: Dim) -> Tensor | None:
        """Positions that stay, or None where all do."""
        resolved = axes.resolve(dim)
        if resolved not in self._masks:
            touched = any(a in self.keep for a in axes.leaves(resolved))
            self._masks[resolved] = axes.mask(resolved, self.keep) if touched else None
        return self._masks[resolved]

    @property
    def whole(self) -> bool:
        """Whether nothing goes: the model itself."""
        return not self.keep and not self.candidate.skipped

    def living(self) -> dict[str, bool]:
        """State-dict key -> whether any operation that reads it is left."""
        return {
            t.key: not t.users or any(not (u & self.candidate.skipped) for u in t.users)
            for t in self.space.table.tensors
        }

    def sliced(self, key: str, value: Tensor) -> Tensor:
        """A copy of a parameter or buffer, cut along every dimension that shrank."""
        out = value.detach()
        for i, dim in enumerate(self.space.plan.analysis.tensors.get(key, [])):
            mask = self.mask(dim)
            if mask is not None:
                out = out.index_select(i, torch.nonzero(mask).flatten().to(out.device))
        return out.clone() if out.data_ptr() == value.data_ptr() else out

    def tensors(self) -> tuple[dict[str, nn.Parameter], dict[str, Tensor]]:
        """Sliced parameters and buffers of the parts that stay; tied names share one tensor, as in the model."""
        living = self.living()
        made: dict[int, Tensor] = {}
        parameters: dict[str, nn.Parameter] = {}
        buffers: dict[str, Tensor] = {}
        for key, p in self.model.named_parameters(remove_duplicate=False):
            if living.get(key, True):
                if id(p) not in made:
                    made[id(p)] = nn.Parameter(self.sliced(key, p), requires_grad=p.requires_grad)
                parameters[key] = made[id(p)]  # type: ignore[assignment]
        for key, b in self.model.named_buffers(remove_duplicate=False):
            if living.get(key, True):
                buffers[key] = made.setdefault(id(b), self.sliced(key, b))
        return parameters, buffers

    def as_class(self) -> nn.Module:
        """The user's own class: a copy in which parameters are sliced and leaf attributes follow."""
        parameters, buffers = self.tensors()
        memo: dict[int, object] = {}
        for key, p in self.model.named_parameters(remove_duplicate=False):
            memo[id(p)] = parameters.get(key, p)
        for key, b in self.model.named_buffers(remove_duplicate=False):
            memo[id(b)] = buffers.get(key, b)
        for name in self.candidate.skipped:
            memo[id(self.model.get_submodule(name))] = nn.Identity()
        with restored_modes(self.model):
            student: nn.Module = copy.deepcopy(self.model, memo)
        groups = self.group_counts()
        for path, module in student.named_modules():
            fix_attributes(module, groups.get(path))
        return student

    def group_counts(self) -> dict[str, int]:
        """Path of every grouped convolution and GroupNorm -> how many groups stay."""
        analysis = self.space.plan.analysis
        dims = {r.weight.removesuffix(".weight"): r.groups for r in analysis.rows if r.weight and r.groups != ONE}
        for node, (target, args, _) in analysis.rewrites.items():
            if target is torch.ops.aten.group_norm.default:
                dims[module_path(node)] = args[1].dim
        masks = {path: self.mask(dim) for path, dim in dims.items()}
        return {path: dim_size(dims[path]) if mask is None else int(mask.sum()) for path, mask in masks.items()}

    def verify(self) -> int:
        """Compare the shapes of both carved graphs with what the rules said; RuleError where they differ."""
        plan = self.space.plan
        graphs = [carved_graph(p, plan, self.candidate.skipped, self.mask) for p in plan.programs.values()]
        return sum(verify_shapes(self.as_source(), g, plan.analysis, self.mask, plan.example_pair) for g in graphs)

    def as_source(self) -> SourceModule:
        """Generated source for both modes over the same parameter tree."""
        plan = self.space.plan
        sources = {
            mode: generate(program, plan, self.candidate.skipped, self.mask) for mode, program in plan.programs.items()
        }
        parameters, buffers = self.tensors()
        persistent = set(self.model.state_dict(keep_vars=True))
        constants = {k: v for p in plan.programs.values() for k, v in p.constants.items() if k not in buffers}
        specs = {mode: p.out_spec for mode, p in plan.programs.items()}
        module = SourceModule(sources, specs)
        for key in [k for k in _order(self.model) if k in parameters or k in buffers]:
            module.place(key, parameters.get(key, buffers.get(key)), key in persistent)
        for key, value in constants.items():
            module.place(key, value.clone(), False)
        module.train(self.model.training)
        return module


def _order(model: nn.Module) -> list[str]:
    """Parameter and buffer names in the order of the state dict, then the buffers that it leaves out."""
    keys = list(model.state_dict(keep_vars=True))
    return keys + [k for k, _ in model.named_buffers(remove_duplicate=False) if k not in set(keys)]
