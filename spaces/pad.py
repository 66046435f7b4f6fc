"""Wider layers that compute the same: a trained student filled up with zeros to widths that its target runs faster."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from niwaki.spaces.carve import carve, checked
from niwaki.spaces.cut import Cut
from niwaki.spaces.errors import InputError, nearest
from niwaki.spaces.space import Space
from niwaki.spaces.sparsity import Sparsity
from niwaki.spaces.trace import restored_modes
from niwaki.spaces.types import Candidate, Kept

TOLERANCE = {torch.float64: 1e-9}
"""Largest difference between the outputs of both, relative to the largest output; 1e-4 for every other type."""


class PaddingError(ValueError):
    """Zeros in a group change what the model computes, as far as running both can tell.

    Attributes:
        groups: the ones to blame.
    """

    def __init__(self, message: str, groups: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.groups = groups

    @classmethod
    def of(cls, groups: Sequence[str]) -> PaddingError:
        names = ", ".join(map(repr, groups))
        return cls(
            f"group{'s' if len(groups) > 1 else ''} {names} cannot be padded: with zeros in the place of removed units "
            "the outputs differ or are not finite",
            tuple(groups),
        )


def pad(
    model: nn.Module, student: nn.Module, space: Space, candidate: Candidate, kept: Kept | None,
    widths: Mapping[str, int],
) -> nn.Module:
    """A wider module that computes what ``student`` computes: its tensors, and zeros for the units that are added.

    The added units are the first removed ones of each group. Whatever reads them has zero weights for them, and they
    are themselves zero until an activation makes something else of them. Both modules are run and compared.

    Args:
        model: the one that ``student`` was carved from; not changed.
        student: ``carve(model, space, candidate, kept)``, trained since or not; not changed.
        candidate, kept: as for :func:`niwaki.spaces.carve`.
        widths: group -> units, at least the candidate's and at most all; the other groups stay. See
            :func:`padded_widths`.

    Returns:
        A new module in the mode of ``student``; its cost is that of the candidate with ``widths``.

    Raises:
        InputError: a group or width that the space does not have, or a group that :func:`unpaddable` names.
        PaddingError: the outputs differ or are not finite; names the groups.

    Example:
        >>> from niwaki.spaces import derive
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
        >>> space = derive(net, torch.zeros(2, 3, 8, 8))
        >>> narrow = carve(net, space, Candidate({"0": 5}))
        >>> wide, x = pad(net, narrow, space, Candidate({"0": 5}), None, {"0": 8}), torch.randn(2, 3, 8, 8)
        >>> wide[0].out_channels, torch.allclose(wide(x), narrow(x), atol=1e-6)
        (8, True)
    """
    kept = checked(space, candidate, kept)
    _check(space, candidate, widths)
    grown = {n: w for n, w in widths.items() if w > candidate.widths[n]}
    padded = _padded(model, student, space, (candidate, kept), grown)
    if not _same(space, student, padded):
        if not _same(space, student, copy.deepcopy(student)):
            raise PaddingError("the student's own outputs are not finite: whether padding keeps them cannot be told")
        each = {n: _padded(model, student, space, (candidate, kept), {n: w}) for n, w in grown.items()}
        raise PaddingError.of([n for n in grown if not _same(space, student, each[n])] or list(grown))
    return padded.train(student.training)


def padded_widths(space: Space, candidate: Candidate, step: int | Mapping[str, int]) -> dict[str, int]:
    """Group -> next multiple of the step (all units where that is more), for groups that grow and may be padded.

    Args:
        step: for all groups, or by group; groups that it leaves out stay.

    Example:
        >>> from niwaki.spaces import derive
        >>> space = derive(nn.Sequential(nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 2)), torch.zeros(2, 4))
        >>> [padded_widths(space, Candidate({"0": n}), 8) for n in (3, 8, 17)]
        [{'0': 8}, {}, {'0': 20}]
    """
    steps = step if isinstance(step, Mapping) else dict.fromkeys(space.widths, step)
    for name, value in steps.items():
        if value < 1:
            raise InputError(f"pad: the step must be at least 1, got {value} for {name!r}")
    stays = unpaddable(space, candidate)
    whole = space.canonical(candidate).widths  # groups that went with their blocks count as whole
    found = {}
    for g in space.groups:
        width, s = candidate.widths[g.name], steps.get(g.name, 1)
        wide = min(g.units, -(-width // s) * s)
        if wide > width and whole[g.name] == width and g.name not in stays:
            found[g.name] = wide
    return found


def unpaddable(space: Space, candidate: Candidate) -> dict[str, str]:
    """Group -> why zeros may not be added to it."""
    rows = {n for n, token in candidate.sparsity.items() if Sparsity.parse(token).m}
    found: dict[str, str] = {}
    for g in space.groups:
        if not g.exact:
            found[g.name] = "a normaliser runs over its units: a zero is not the same as no unit"
        for s in g.slices:
            layer = s.tensor.removesuffix(".weight")
            if layer in rows and s.dim:
                found.setdefault(g.name, f"it would shift the {candidate.sparsity[layer]} pattern of {layer!r}")
    for names in space.ties:
        if first := next((n for n in names if n in found), None):
            found |= {n: f"it is tied to {first!r}" for n in names if n not in found}
    return found


def _check(space: Space, candidate: Candidate, widths: Mapping[str, int]) -> None:
    stays = unpaddable(space, candidate)
    units = {g.name: g.units for g in space.groups}
    for name, width in widths.items():
        if name not in units:
            raise InputError(f"pad: unknown group {name!r}; {nearest(name, units)}")
        least = candidate.widths[name]
        if not least <= width <= units[name]:
            raise InputError(f"pad: {name!r} keeps {least} of {units[name]} units, {width} does not lie between them")
        if width > least and name in stays:
            raise InputError(f"pad: {name!r} cannot be padded: {stays[name]}")


def _padded(
    model: nn.Module, student: nn.Module, space: Space, small: tuple[Candidate, Kept], widths: Mapping[str, int]
) -> nn.Module:
    """Carved at the larger widths, then overwritten."""
    candidate, kept = small
    wide = replace(candidate, widths={**candidate.widths, **widths})
    more = {g.name: _filled_up(kept[g.name], g.units, wide.widths[g.name]) for g in space.groups}
    padded = carve(model, space, wide, more)
    cuts = Cut(model, space, candidate, kept), Cut(model, space, wide, more)
    values = _tensors(student)
    with torch.no_grad():
        for key, place in _tensors(padded).items():
            if key in values:
                place.copy_(_spread(key, values[key].to(place.device), place, cuts))
    device = next(iter(values.values())).device if values else torch.device("cpu")
    return padded.to(device)


def _filled_up(kept: Tensor, units: int, width: int) -> Tensor:
    """``width`` ascending units: the kept ones and the first of the others."""
    gone = torch.ones(units, dtype=torch.bool)
    gone[kept] = False
    return torch.cat([kept, gone.nonzero().flatten()[: width - len(kept)]]).sort().values


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers under all their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers(remove_duplicate=False))
    }


def _spread(key: str, value: Tensor, place: Tensor, cuts: tuple[Cut, Cut]) -> Tensor:
    """``value`` at the positions of the kept units, zeros between them; a variance between them is 1."""
    dims = cuts[0].space.plan.analysis.tensors.get(key, [])
    index = [_positions(cuts[0].mask(dim), cuts[1].mask(dim), n) for dim, n in zip(dims, place.shape, strict=False)]
    if value.shape == place.shape or not index:
        return value
    rest = place.detach().clone()
    if rest.is_floating_point():  # an index buffer has no zero: the teacher's entries stay in it
        rest.fill_(1.0 if key.rpartition(".")[2] == "running_var" else 0.0)
    rest[tuple(i.view(-1, *[1] * (len(index) - 1 - d)) for d, i in enumerate(index))] = value.to(rest.dtype)
    return rest


def _positions(small: Tensor | None, large: Tensor | None, size: int) -> Tensor:
    """Where the positions that ``small`` keeps are among those that ``large`` keeps; None keeps all."""
    if small is None:
        return torch.arange(size)
    return (small if large is None else small[large]).nonzero().flatten()


def _same(space: Space, student: nn.Module, padded: nn.Module) -> bool:
    """Both on the example and on random numbers of its shape, in eval mode; inputs that the student itself gives no
    finite answer to do not count, but one must."""
    generator = torch.Generator().manual_seed(0)
    example = space.plan.example_pair
    noise = tuple(torch.randn(t.shape, generator=generator).to(t) if t.is_floating_point() else t for t in example)
    pairs = [(_answers(space, student, x), _answers(space, padded, x)) for x in (example, noise)]
    pairs = [(a, b) for a, b in pairs if all(bool(t.isfinite().all()) for t in a)]
    return bool(pairs) and all(_close(a, b) for a, b in pairs)


def _answers(space: Space, module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    subject = space.plan.subject(module)
    device = next((t.device for t in _tensors(module).values()), torch.device("cpu"))
    with restored_modes(subject), torch.no_grad():
        found = subject.eval()(*(t.to(device) for t in inputs))
    return [t.cpu() for t in torch.utils._pytree.tree_leaves(found) if isinstance(t, Tensor)]


def _close(expected: list[Tensor], got: list[Tensor]) -> bool:
    """NaN is close to nothing."""
    for a, b in zip(expected, got, strict=True):
        scale = float(a.abs().max()) if a.numel() else 0.0
        if a.shape != b.shape or not bool(((a - b).abs() <= TOLERANCE.get(a.dtype, 1e-4) * max(scale, 1e-12)).all()):
            return False
    return True
