"""Groups: the units that layers make, named after them, with every place they sit in; and what stays, and why."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from niwaki.spaces import axes
from niwaki.spaces.axes import Atom
from niwaki.spaces.blocks import ADDS
from niwaki.spaces.options import SpaceOptions, matches
from niwaki.spaces.passes import Analysis
from niwaki.spaces.trace import module_path, source_line
from niwaki.spaces.types import Fixed, Group, Side, Slice, Tap


@dataclass(frozen=True, eq=False)
class Found:
    """Groups and fixed parts with their atoms, by name."""

    groups: list[Group]
    atoms: dict[str, Atom]
    fixed: list[Fixed]
    pinned: dict[str, Atom]


def find_groups(analysis: Analysis, options: SpaceOptions) -> Found:
    """Name the atoms that layers produce; those worth offering become groups, the rest are listed as fixed."""
    made = {(key, dim) for _, key, dim in analysis.producers}
    order = [(key, dim) for key in analysis.tensors for dim in range(len(analysis.tensors[key])) if (key, dim) in made]
    makers: dict[Atom, list[str]] = {}
    for key, dim in order:
        for atom in axes.leaves(analysis.tensors[key][dim]):
            makers.setdefault(atom, []).append(_layer(key))
    lines = {_layer(key): source_line(node) for node, key, _ in reversed(analysis.producers)}
    places, taps, streams = _places(analysis), _taps(analysis), _streams(analysis)
    parts = Found([], {}, [], {})
    for atom, name in _names(makers).items():
        if any(kept_whole(layer, options) for layer in (name, *makers[atom])):
            atom.pin = atom.pin or "kept on request"
        elif atom.size < options.least:
            atom.pin = atom.pin or f"fewer than {options.least} units"
        slices = [] if atom.pin else _slices(atom, places.get(atom, []), analysis, made)
        if atom.pin or slices is None:
            why = atom.pin or "one unit meets itself in a product"
            parts.fixed.append(Fixed.because(name, atom.size, why, lines[makers[atom][0]]))
            parts.pinned[name] = atom
            continue
        watched = tuple(taps.get(atom, {}).values())
        group = Group(name, atom.size, (atom.size,), tuple(slices), watched, atom.exact, atom in streams)
        parts.groups.append(group)
        parts.atoms[name] = atom
    return parts


def _names(makers: dict[Atom, list[str]]) -> dict[Atom, str]:
    """Every atom after the first layer that makes it; numbered where a layer is the first to make several.

    The only one that nothing pins goes by the layer alone: an embedding's width beside its rows, for one.
    """
    firsts: dict[str, list[Atom]] = {}
    for atom, layers in makers.items():
        if atom.size > 1:
            firsts.setdefault(layers[0], []).append(atom)
    return {
        atom: layer if len(atoms) == 1 or [a for a in atoms if not a.pin] == [atom] else f"{layer}#{i}"
        for layer, atoms in firsts.items()
        for i, atom in enumerate(atoms)
    }


def _layer(key: str) -> str:
    return key.rsplit(".", 1)[0]


Place = tuple[str, int, torch.Tensor | None]


def _places(analysis: Analysis) -> dict[Atom, list[Place]]:
    """Atom -> every parameter dimension it sits in, with the positions of its units."""
    places: dict[Atom, list[Place]] = {}
    for key, dims in analysis.tensors.items():
        for i, dim in enumerate(dims if key not in analysis.unlisted else ()):
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
        if "niwaki_channel" not in node.meta:  # no module gives out what this operation makes
            continue
        channel = int(node.meta["niwaki_channel"])
        for atom, index in axes.positions(analysis.values[node][0][channel]).items():
            if index is not None:
                taps.setdefault(atom, {}).setdefault(module_path(node), Tap(module_path(node), channel, index))
    return taps


def kept_whole(name: str, options: SpaceOptions) -> bool:
    """Whether the user asked to keep what goes by this name."""
    return any(matches(name, p) for p in options.keep)
