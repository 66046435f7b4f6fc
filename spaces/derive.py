"""From a model and an example to the Space of its smaller selves: trace, walk, group, name."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor, nn

from niwaki.spaces import axes
from niwaki.spaces.arrange import arrange
from niwaki.spaces.blocks import Cone, find_cones
from niwaki.spaces.cost import CostTable
from niwaki.spaces.errors import InputError, nearest
from niwaki.spaces.flow import LOOKUPS, base_name
from niwaki.spaces.groups import find_groups, kept_whole
from niwaki.spaces.options import OptionChanges, SpaceOptions, changed, matches
from niwaki.spaces.parts import Parts, find_parts
from niwaki.spaces.passes import Analysis
from niwaki.spaces.plan import Plan
from niwaki.spaces.rules import ALL
from niwaki.spaces.space import Space
from niwaki.spaces.sparsity import Sparsity
from niwaki.spaces.stages import group_stages
from niwaki.spaces.tenants import find_peaks
from niwaki.spaces.trace import Example, Mode, Program, as_tuple, on_device, trace
from niwaki.spaces.types import Fixed


def derive(
    model: nn.Module, example: Example, options: SpaceOptions | None = None, **changes: Unpack[OptionChanges]
) -> Space:
    """Find everything that may be cut in ``model``.

    Args:
        model: any module that torch.export can trace; it is left untouched.
        example: a tensor, or a tuple of tensors, batch first, as the model takes them (floating point or integer).
        options: widths, depth and sparsity on offer; what stays whole, what goes together.
        changes: fields of :class:`SpaceOptions`, in place of (or on top of) ``options``: ``keep=["stem"]``, ``step=8``.

    Returns:
        The Space: groups of units tied together, removable blocks, choices, exact costs.

    Raises:
        InputError: the model cannot be exported on the example, an option does not exist or has a wrong value, or a
            pattern of ``keep``, ``tie`` or ``widths`` matches nothing.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> [(g.name, g.units) for g in derive(net, torch.zeros(2, 3, 8, 8)).groups]
        [('0', 8)]
        >>> derive(net, torch.zeros(2, 3, 8, 8), step=4, ratios=[0.5]).widths
        {'0': (4, 8)}
    """
    options = changed(options, changes)
    programs, tensors, subject, refused = _traced(model, example)
    analysis = Analysis()
    for program in programs.values():
        analysis.walk(program, ALL)
    _add_untraced(analysis, model)
    _pin_unused(analysis, programs)
    cones = _cones(programs, options, isinstance(subject, Parts))
    blocks, least = group_stages(cones["eval"], _children(subject))
    found = find_groups(analysis, options)
    fixed = (*found.fixed, *refused)
    _check_keep(options, {*found.atoms, *found.pinned, *(n for n, _ in model.named_modules() if n)})
    groups, ties = arrange(found.groups, [(f.name, f.reason) for f in fixed], options)
    plan = Plan(
        programs,
        analysis,
        {mode: {c.name: c for c in mine} for mode, mine in cones.items()},
        found.atoms,
        _state_kinds(model),
        tensors,
        found.pinned,
        subject.parts if isinstance(subject, Parts) else (),
    )
    table, peaks = CostTable.compile(plan, groups), find_peaks(plan, subject, groups)
    return Space(groups, blocks, least, _sparsities(analysis, options), fixed, table, plan, ties, peaks)


def _cones(programs: dict[Mode, Program], options: SpaceOptions, parts: bool) -> dict[Mode, list[Cone]]:
    """Blocks that both modes have and nobody asked to keep; of parts, those that the user's classes can do without."""
    found = {mode: find_cones(p) if options.depth else [] for mode, p in programs.items()}
    names = set.intersection(*({c.name for c in mine if c.whole or not parts} for mine in found.values()))
    names = {n for n in names if not kept_whole(n, options)}
    return {mode: [c for c in mine if c.name in names] for mode, mine in found.items()}


def _sparsities(analysis: Analysis, options: SpaceOptions) -> dict[str, tuple[str, ...]]:
    """Layer -> tokens, sparsest first, so that a higher index always means a larger model."""
    tokens = sorted(options.sparsity, key=lambda t: int(Sparsity.parse(t).kept(10_000, 10_000)))
    layers = {
        key.removesuffix(".weight")
        for node, key, _ in analysis.producers
        if key.endswith(".weight") and base_name(node) not in LOOKUPS
    }
    return {n: (*tokens, "dense") for n in sorted(layers) if tokens and not kept_whole(n, options)}


def _traced(
    model: nn.Module, example: Example
) -> tuple[dict[Mode, Program], tuple[Tensor, ...], nn.Module, tuple[Fixed, ...]]:
    """The programs, their example, what they are of: the model, or its parts; and what is said of the rest."""
    try:
        programs = trace(model, example)
    except InputError as why:
        parts, tensors = find_parts(model, on_device(model, example), why)
        paths = ", ".join(part.path for part in parts.parts)
        refused = Fixed(f"all but {paths}", 0, f"{why}. What these submodules take and return stays as it is")
        return trace(parts, tensors), tensors, parts, (refused,)
    only_eval = Fixed("train mode", 0, "torch.export cannot trace it: generated students only run in eval mode")
    return programs, as_tuple(example), model, () if "train" in programs else (only_eval,)


def _add_untraced(analysis: Analysis, model: nn.Module) -> None:
    """Tensors that no traced part holds count for parameters and bytes, as they are."""
    for key, value in model.state_dict(keep_vars=True).items():
        if key not in analysis.tensors:
            analysis.tensors[key] = [axes.new(n, "in no traced part") for n in value.shape]


def _check_keep(options: SpaceOptions, names: set[str]) -> None:
    for pattern in options.keep:
        if not any(matches(n, pattern) for n in names):
            raise InputError(f"space.keep: {pattern!r} matches no group or module; {nearest(pattern, names)}")


def _children(model: nn.Module) -> dict[str, set[str]]:
    return {
        path: {n for n, child in module.named_children() if next(child.parameters(), None) is not None}
        for path, module in model.named_modules()
    }


def _state_kinds(model: nn.Module) -> dict[str, tuple[bool, int]]:
    """State-dict key -> (is a parameter, bytes per element)."""
    parameters = {n for n, _ in model.named_parameters()}  # a shared one counts once
    return {k: (k in parameters, v.element_size()) for k, v in model.state_dict(keep_vars=True).items()}


def _pin_unused(analysis: Analysis, programs: dict[Mode, Program]) -> None:
    used: set[str] = set()
    for program in programs.values():
        used |= {
            program.keys[n.name]
            for n in program.graph.nodes
            if n.op == "placeholder" and n.name in program.keys and n.users
        }
    read = {id(analysis.tensors[key]) for key in used if key in analysis.tensors}
    for dims in analysis.tensors.values():
        if id(dims) not in read:
            for dim in dims:
                axes.pin(dim, "unused in the traced graphs")
