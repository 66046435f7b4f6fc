"""From a model and an example to the Space of its smaller selves: trace, walk, group, name."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import fx, nn

from niwaki.spaces import axes
from niwaki.spaces.axes import Atom
from niwaki.spaces.blocks import ADDS, find_cones, group_stages
from niwaki.spaces.cost import CostTable
from niwaki.spaces.errors import InputError, nearest
from niwaki.spaces.passes import Analysis
from niwaki.spaces.rules import ALL
from niwaki.spaces.space import Fixed, Plan, Space
from niwaki.spaces.sparsity import Sparsity
from niwaki.spaces.trace import Example, Mode, Program, as_tuple, module_path, trace
from niwaki.spaces.types import Group, Side, Slice, Tap

TAS_RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class SpaceOptions:
    """What a search may choose from.

    Attributes:
        ratios: widths on offer as fractions of the full width (TAS, section 3.1: 0.3 to 1.0).
        step: widths are rounded to multiples of it (hardware staircases); the full width always stays.
        least: groups with fewer units are fixed.
        keep: shell patterns of groups or module paths that stay whole.
        depth: whether blocks may be removed.
        sparsity: patterns offered to every convolution and linear beside ``dense``, such as ``("0.5", "2:4")``.
    """

    ratios: tuple[float, ...] = TAS_RATIOS
    step: int = 1
    least: int = 4
    keep: tuple[str, ...] = ()
    depth: bool = True
    sparsity: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.ratios or not all(0 < r <= 1 for r in self.ratios):
            raise InputError(f"space.ratios: expected fractions in (0, 1], got {self.ratios}")
        if self.step < 1 or self.least < 2:
            raise InputError(f"space.step must be >= 1 and space.least >= 2, got {self.step} and {self.least}")
        for token in self.sparsity:
            Sparsity.parse(token)

    def choices(self, units: int) -> tuple[int, ...]:
        """Ascending widths for a group of ``units``; int() truncates as in the TAS code.

        Example:
            >>> SpaceOptions().choices(16)
            (4, 6, 8, 9, 11, 12, 14, 16)
        """
        widths = {max(1, int(units * r + 1e-9)) for r in self.ratios}
        if self.step > 1:
            widths = {min(units, max(self.step, round(w / self.step) * self.step)) for w in widths}
        return tuple(sorted(widths | {units}))


def derive(model: nn.Module, example: Example, options: SpaceOptions | None = None) -> Space:
    """Find everything that may be cut in ``model``.

    Args:
        model: any module that torch.export can trace; it is left untouched.
        example: a tensor, or a tuple of tensors, batch first, as the model takes them (floating point or integer).
        options: widths, depth and sparsity on offer.

    Returns:
        The Space: groups of units tied together, removable blocks, choices, exact costs.

    Raises:
        InputError: the model cannot be exported on the example, or ``keep`` names nothing.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> [(g.name, g.units) for g in derive(net, torch.zeros(2, 3, 8, 8)).groups]
        [('0', 8)]
    """
    options = options or SpaceOptions()
    programs = trace(model, example)
    analysis = Analysis()
    for program in programs.values():
        analysis.walk(program, ALL)
    _pin_unused(analysis, programs)
    cones = {mode: find_cones(p) if options.depth else [] for mode, p in programs.items()}
    shared = set.intersection(*({c.name for c in found} for found in cones.values()))
    cones = {
        mode: [c for c in found if c.name in shared and not _kept(c.name, options)] for mode, found in cones.items()
    }
    blocks, least = group_stages(cones["eval"], _children(model))
    atoms, groups, fixed = _groups(model, analysis, options)
    plan = Plan(
        programs,
        analysis,
        {m: {c.name: c for c in found} for m, found in cones.items()},
        atoms,
        _state_kinds(model),
        as_tuple(example),
    )
    sparsities = {
        key.removesuffix(".weight"): (*_by_kept(options.sparsity), "dense")
        for _, key, _ in analysis.producers
        if key.endswith(".weight") and options.sparsity and not _kept(key.removesuffix(".weight"), options)
    }
    if "train" not in programs:
        fixed = (
            *fixed,
            Fixed("train mode", 0, "torch.export cannot trace it: generated students only run in eval mode"),
        )
    _check_keep(options, [g.name for g in groups] + [n for n, _ in model.named_modules()])
    return Space(groups, blocks, least, dict(sorted(sparsities.items())), fixed, CostTable.compile(plan, groups), plan)


def _by_kept(tokens: tuple[str, ...]) -> list[str]:
    """Sparsest first, so that a higher index always means a larger model."""
    return sorted(tokens, key=lambda t: int(Sparsity.parse(t).kept(10_000, 10_000)))


def _kept(name: str, options: SpaceOptions) -> bool:
    return any(fnmatchcase(name, p) or name.startswith(f"{p}.") for p in options.keep)


def _check_keep(options: SpaceOptions, names: list[str]) -> None:
    for pattern in options.keep:
        if not any(fnmatchcase(n, pattern) or n.startswith(f"{pattern}.") for n in names):
            raise InputError(f"space.keep: {pattern!r} matches no group or module; {nearest(pattern, names)}")


def _children(model: nn.Module) -> dict[str, set[str]]:
    return {
        path: {n for n, child in module.named_children() if next(child.parameters(), None) is not None}
        for path, module in model.named_modules()
    }


def _state_kinds(model: nn.Module) -> dict[str, tuple[bool, int]]:
    """State-dict key -> (is a parameter, bytes per element)."""
    parameters = {n for n, _ in model.named_parameters(remove_duplicate=False)}
    return {k: (k in parameters, v.element_size()) for k, v in model.state_dict(keep_vars=True).items()}


def _pin_unused(analysis: Analysis, programs: dict[Mode, Program]) -> None:
    used: set[str] = set()
    for program in programs.values():
        used |= {
            program.keys[n.name]
            for n in program.graph.nodes
            if n.op == "placeholder" and n.name in program.keys and n.users
        }
    for key, dims in analysis.tensors.items():
        if key not in used:
            for dim in dims:
                axes.pin(dim, "unused in the traced graphs")


def _groups(
    model: nn.Module, analysis: Analysis, options: SpaceOptions
) -> tuple[dict[str, Atom], tuple[Group, ...], tuple[Fixed, ...]]:
    """Name the atoms that layers produce; those worth offering become groups, the rest are listed as fixed."""
    made = {(key, dim) for _, key, dim in analysis.producers}
    order = [(key, dim) for key in analysis.tensors for dim in range(len(analysis.tensors[key])) if (key, dim) in made]
    names: dict[Atom, str] = {}
    for key, dim in order:
        fresh = [a for a in dict.fromkeys(axes.leaves(analysis.tensors[key][dim])) if a not in names and a.size > 1]
        layer = key.rsplit(".", 1)[0]
        for i, atom in enumerate(fresh):
            names[atom] = layer if len(fresh) == 1 else f"{layer}#{i}"
    places, taps, streams = _places(analysis), _taps(analysis), _streams(analysis)
    makers: dict[Atom, list[str]] = {}
    for key, dim in order:
        for atom in axes.leaves(analysis.tensors[key][dim]):
            makers.setdefault(atom, []).append(key.rsplit(".", 1)[0])
    groups, atoms, fixed = [], {}, []
    for atom, name in names.items():
        if any(_kept(layer, options) for layer in (name, *makers.get(atom, ()))):
            atom.pin = atom.pin or "kept on request"
        elif atom.size < options.least:
            atom.pin = atom.pin or f"fewer than {options.least} units"
        slices = [] if atom.pin else _slices(atom, places.get(atom, []), analysis, made)
        if atom.pin or slices is None:
            fixed.append(Fixed(name, atom.size, atom.pin or "one unit meets itself in a product"))
            continue
        watched = tuple(taps.get(atom, {}).values())
        groups.append(
            Group(name, atom.size, options.choices(atom.size), tuple(slices), watched, atom.exact, atom in streams)
        )
        atoms[name] = atom
    return atoms, tuple(groups), tuple(fixed)


Place = tuple[str, int, torch.Tensor | None]


def _places(analysis: Analysis) -> dict[Atom, list[Place]]:
    """Atom -> every parameter dimension it sits in, with the positions of its units."""
    places: dict[Atom, list[Place]] = {}
    for key, dims in analysis.tensors.items():
        for i, dim in enumerate(dims):
            for atom, index in axes.positions(dim).items():
                places.setdefault(atom, []).append((key, i, index))
    return places


def _slices(atom: Atom, places: list[Place], analysis: Analysis, made: set[tuple[str, int]]) -> list[Slice] | None:
    slices = []
    for key, i, index in places:
        if index is None:
            return None
        side: Side = "carries"
        if key not in analysis.carriers:
            side = "produces" if (key, i) in made else "consumes" if (key, i) in analysis.consumers else "carries"
        slices.append(Slice(key, i, side, index))
    return slices


def _streams(analysis: Analysis) -> set[Atom]:
    """Units of residual streams: what an addition of two computed tensors joins."""
    found: set[Atom] = set()
    for node, results in analysis.values.items():
        operands = [a for a in node.args if isinstance(a, fx.Node) and a.op == "call_function"]
        if str(node.target) in ADDS and len(operands) == 2:
            found.update(atom for dim in results[0] for atom in axes.leaves(dim))
    return found


def _taps(analysis: Analysis) -> dict[Atom, dict[str, Tap]]:
    """Outputs of the layers that produce each atom, after the BatchNorm where one follows directly."""
    taps: dict[Atom, dict[str, Tap]] = {}
    for producer, _, _ in analysis.producers:
        users = list(producer.users)
        follows = len(users) == 1 and str(users[0].target) == "aten.batch_norm.default"
        node = users[0] if follows else producer
        channel = int(node.meta["niwaki_channel"])
        for atom, index in axes.positions(analysis.values[node][0][channel]).items():
            if index is not None:
                taps.setdefault(atom, {}).setdefault(module_path(node), Tap(module_path(node), channel, index))
    return taps
