"""The network of a TAS search: a model's train graph in which every width is a mix of two, every depth one of all."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn

from niwaki.search.tas.interpolate import interpolate
from niwaki.search.tas.layout import Line, Mix, deciders, find_bare, find_clean, find_lines, find_mixes
from niwaki.search.tas.sampling import Draw
from niwaki.spaces import InputError, Space, axes
from niwaki.spaces.mask import MaskedRun
from niwaki.spaces.source import carved_graph


class SearchNet:
    """Runs a model with sampled widths and depths; its weights are copies, units of every group best first.

    Each output that makes units of a group is ``w1 * CWI(f[:c1], c) + w2 * CWI(f[:c2], c)`` with ``c = max(c1, c2)``,
    zero beyond: a full convolution runs once. Layers of one group (residual streams) and of tied groups share a draw,
    so that additions need no padding rule. What normalises over units (LayerNorm) sees the first c alone. The output
    of a stage is the sum over its depths k of q_k times the feature after k blocks; where other layers stand between
    the blocks (attention and MLP branches in turns), a block's branch is scaled by P(depth >= its place) instead.

    BatchNorm, as in TAS: a pair of weight and bias for every width on offer. Normalised values are shared: those of a
    channel do not depend on how many others there are, and a search only ever runs in train mode.

    Args:
        model: the one ``space`` was derived from; untouched. The search runs where its parameters are.
        scores: group -> (units,), larger = keep; None: units as they are.

    Raises:
        InputError: torch.export could not trace the model in train mode, or not as a whole.

    Example:
        >>> from niwaki.spaces import derive
        >>> from niwaki.search.tas.sampling import draw, label
        >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> space = derive(model, torch.randn(2, 8))
        >>> logits = {label(v): torch.zeros(len(v.choices)) for v in space.variables}
        >>> one = draw(space.variables, logits, 1.0, torch.Generator().manual_seed(0))
        >>> SearchNet(model, space)(one, torch.randn(3, 8)).shape
        torch.Size([3, 4])
    """

    def __init__(self, model: nn.Module, space: Space, scores: Mapping[str, Tensor] | None = None) -> None:
        plan = space.plan
        if "train" not in plan.programs or plan.parts:
            raise InputError("search.proposer: 'tas' needs a model that torch.export traces whole, in train mode")
        program = plan.programs["train"]
        self.space, self.program = space, program
        self.graph = carved_graph(program, plan, frozenset(), lambda _: None)
        self.twin = {n.meta["origin"]: n for n in self.graph.nodes if "origin" in n.meta}
        self.mixes = find_mixes(space, program)
        self.clean = find_clean(space, program, self.mixes)
        self.bare = find_bare(space, program)
        self.lines = find_lines(space, program)
        self.finals = {line.end: line for line in self.lines if line.between is not None}
        self.adds = {cone.add: (line, k) for line in self.lines for k, cone in enumerate(line.cones)}
        self.decided = deciders(space)
        self.over_kept = any(n in plan.analysis.over_kept for n in program.graph.nodes)
        self.state = sorted_state(model, space, scores or {})
        device = next(iter(self.state.values())).device
        self.constants = {key: value.to(device) for key, value in program.constants.items()}
        self.affines = self._affines()

    def _affines(self) -> dict[str, Tensor]:
        """Key of a BatchNorm's weight or bias -> (choices, units): its own for every width."""
        found: dict[str, Tensor] = {}
        for mix in (m for mixes in self.mixes.values() for m in mixes):
            for key in mix.affine or ():
                copies = self.state[key].detach().expand(len(mix.choices), -1).clone()
                found[key] = copies.requires_grad_(self.state[key].requires_grad)
        return found

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint has to hold."""
        return {**self.state, **{f"{key}#widths": value for key, value in self.affines.items()}}

    def parameters(self) -> list[Tensor]:
        """Each weight once; those of BatchNorms per width."""
        used = {id(t): t for key, t in self.state.items() if t.requires_grad and key not in self.affines}
        return [*used.values(), *(t for t in self.affines.values() if t.requires_grad)]

    def __call__(self, draw: Draw, *inputs: Any) -> Any:
        """The model's outputs on ``inputs`` (B, ...), in train mode."""
        run = _Pass(self, draw, inputs)
        small = self.graph
        if self.over_kept:
            small = carved_graph(self.program, self.space.plan, frozenset(), run.mask)
        return pytree.tree_unflatten(list(run.through(self.graph, small)), self.program.out_spec)


class _Pass(MaskedRun):
    """One forward pass with one draw."""

    def __init__(self, net: SearchNet, draw: Draw, args: tuple[Any, ...]) -> None:
        keep = {}
        for atom, (variable, choices) in net.decided.items():
            pair = draw.widths[variable]
            top = choices[max(pair.first, pair.second)]
            if top < atom.size:
                keep[atom] = torch.arange(atom.size) < top
        super().__init__({**net.constants, **net.state}, net.space.plan.analysis, keep, args)
        self.net, self.draw = net, draw
        device = pytree.tree_leaves(args)[0].device
        parts = [*(p.weights for p in draw.widths.values()), *draw.depths.values()]
        moved = iter(torch.split(torch.cat(parts).to(device), [len(p) for p in parts]) if parts else ())  # one transfer
        self.halves = {name: next(moved) for name in draw.widths}
        self.depths = {stage: next(moved) for stage in draw.depths}

    def mask(self, dim: axes.Dim) -> Tensor | None:
        """Positions that stay, or None where all do."""
        touched = any(a in self.keep for a in axes.leaves(dim))
        return axes.mask(dim, self.keep) if touched else None

    def fetched(self, node: fx.Node, value: Tensor) -> Tensor:
        origin: Any = node.meta.get("origin")
        for mix in self.net.mixes.get(origin, ()):
            value = self.mixed(mix, value)
        return super().zeroed(node, value) if origin in self.net.bare else value

    def call(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        origin: Any = node.meta.get("origin")
        if origin in self.net.adds:  # never in place: shortcuts are looked at again
            result = self.added(*self.net.adds[origin], torch.add(*args, **kwargs))
        elif any(m.affine for m in self.net.mixes.get(origin, ())):
            return F.batch_norm(args[0], None, None, training=True, eps=args[7])
        else:
            result = super().call(node, args, kwargs)
        return self.joined(self.net.finals[origin], result) if origin in self.net.finals else result

    def zeroed(self, node: fx.Node, result: Any) -> Any:
        origin: Any = node.meta.get("origin")
        for mix in self.net.mixes.get(origin, ()):
            result = self.mixed(mix, result)
        return result if origin in self.net.clean else super().zeroed(node, result)

    def mixed(self, mix: Mix, value: Tensor) -> Tensor:
        """Two widths of the units of ``value``, interpolated to the larger and added; zeros beyond."""
        if mix.index is None:
            return self.blended(mix, value)
        index = mix.index.to(value.device)
        units = torch.unflatten(value.index_select(mix.dim, index.flatten()), mix.dim, index.shape)
        return value.index_copy(mix.dim, index.flatten(), self.blended(mix, units).flatten(mix.dim, mix.dim + 1))

    def blended(self, mix: Mix, units: Tensor) -> Tensor:
        pair, weights = self.draw.widths[mix.variable], self.halves[mix.variable]
        top = mix.choices[max(pair.first, pair.second)]
        total: Any = 0
        for choice, weight in zip((pair.first, pair.second), weights, strict=True):
            feature = units.narrow(mix.dim, 0, mix.choices[choice])
            if mix.affine is not None:
                shape = (-1,) + (1,) * (units.dim() - mix.dim - 1)
                gain, bias = (self.net.affines[key][choice, : mix.choices[choice]].view(shape) for key in mix.affine)
                feature = feature * gain + bias
            total = total + weight * interpolate(feature, mix.dim, top)
        return F.pad(total, (0, 0) * (units.dim() - mix.dim - 1) + (0, units.shape[mix.dim] - top))

    def added(self, line: Line, place: int, total: Tensor) -> Tensor:
        """The sum of a block's shortcut and branch; the branch scaled where depths cannot be weighed at the end."""
        if line.between is not None:
            return total
        short: Tensor = self.env[self.net.twin[line.cones[place].skip]]
        present: Any = sum(q for q, k in zip(self.depths[line.stage], line.choices, strict=True) if k > place)
        return torch.add(short, present * (total - short))

    def joined(self, line: Line, deepest: Tensor) -> Tensor:
        """The output of a stage: the features after all its depths, weighed."""
        features: dict[int, Tensor] = {}
        for place, cone in enumerate(line.cones):
            if place:  # what a shallower stage would hand to this block's shortcut
                features = self.again((line.between or ())[place - 1], line.cones[place - 1].add, features)
            if place in line.choices:
                features[place] = self.env[self.net.twin[cone.skip]]
        features = self.again(line.tail, line.cones[-1].add, features) | {len(line.cones): deepest}
        return torch.stack([q * features[k] for q, k in zip(self.depths[line.stage], line.choices, strict=True)]).sum(0)

    def again(self, path: Sequence[fx.Node], start: fx.Node, values: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """The operations of ``path`` on other values of ``start``."""
        found = dict(values)
        for k in values if path else ():
            env = ChainMap({self.net.twin[start]: found[k].clone()}, self.env)  # clone: for operations in place
            for node in path:
                twin = self.net.twin[node]
                args, kwargs = fx.map_arg((twin.args, twin.kwargs), env.__getitem__)
                env[twin] = self.zeroed(twin, super().call(twin, args, kwargs))
            found[k] = env[self.net.twin[path[-1]]]
        return found


def sorted_state(model: nn.Module, space: Space, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of all parameters and buffers, by every name, with the units of each scored group best first."""
    copies: dict[int, Tensor] = {}
    state: dict[str, Tensor] = {}
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    for key, tensor in named:
        if id(tensor) not in copies:
            copies[id(tensor)] = tensor.detach().clone()
        state[key] = copies[id(tensor)]
    for group in space.groups:
        if group.name not in scores:
            continue
        order = scores[group.name].cpu().argsort(descending=True, stable=True)
        for piece in group.slices:
            tensor, index = state[piece.tensor], piece.index
            moved = tensor.index_select(piece.dim, index[order].flatten().to(tensor.device))
            tensor.index_copy_(piece.dim, index.flatten().to(tensor.device), moved)
    for key, parameter in model.named_parameters(remove_duplicate=False):
        state[key].requires_grad_(parameter.is_floating_point())
    return state
