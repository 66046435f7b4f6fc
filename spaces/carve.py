"""Carving: a new, smaller, ordinary module out of the teacher, which is left untouched."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from niwaki.spaces.cut import Cut
from niwaki.spaces.errors import InputError
from niwaki.spaces.keeps_class import keeps_class
from niwaki.spaces.parts import Parts
from niwaki.spaces.space import Space
from niwaki.spaces.types import Candidate, Kept


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
