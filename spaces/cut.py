"""One candidate with its kept units, ready to be made into a module: the user's class, or generated source."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from niwaki.spaces import axes
from niwaki.spaces.attributes import fix_attributes
from niwaki.spaces.axes import ONE, Atom, Dim, dim_size
from niwaki.spaces.source import SourceModule, carved_graph, generate
from niwaki.spaces.space import Space
from niwaki.spaces.trace import module_path, restored_modes
from niwaki.spaces.types import Candidate, Kept
from niwaki.spaces.verify import verify_shapes


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
