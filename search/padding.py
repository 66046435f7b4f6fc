"""Zeros up to good widths for a finished student: as many groups as can take them, and why the others cannot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from niwaki.search.export import ExportError
from niwaki.spaces import Candidate, InputError, Kept, Space
from niwaki.spaces.pad import PaddingError, pad, padded_widths, unpaddable

AUTO = "auto"


@dataclass(frozen=True, eq=False)
class Padding:
    """A padded student.

    Attributes:
        model: computes what the student computes.
        candidate: the student's, with the widths that it has now: what the model costs.
        widths: group -> (units kept, units now), for groups that grew.
        refused: group -> why it stays as it is, though its width is no multiple of the step.
    """

    model: nn.Module
    candidate: Candidate
    widths: Mapping[str, tuple[int, int]]
    refused: Mapping[str, str]


def pad_student(
    model: nn.Module, student: nn.Module, space: Space, candidate: Candidate, kept: Kept, step: int | Mapping[str, int]
) -> Padding:
    """Pad every group that can be padded to the next multiple of the step (for all groups, or by group).

    Args:
        model: the teacher that ``student`` was carved from.

    Raises:
        ExportError: the student itself gives no finite outputs.
    """
    widths = padded_widths(space, candidate, step)
    refused = _refused(space, candidate, step)
    while widths:
        try:
            padded = pad(model, student, space, candidate, kept, widths)
        except PaddingError as error:
            if not error.groups:
                raise ExportError(str(error)) from error
            tied = {n for names in space.ties if set(names) & set(error.groups) for n in names}
            for name in {*error.groups, *tied} & widths.keys():
                del widths[name]
                refused[name] = "zeros change the outputs, or make them not finite"
        else:
            wide = replace(candidate, widths={**candidate.widths, **widths})
            return Padding(padded, wide, {n: (candidate.widths[n], w) for n, w in widths.items()}, refused)
    return Padding(student, candidate, {}, refused)


def read_pad(text: str | int) -> int | str:
    """What a user asked for: a step, or ``auto``; InputError names anything else.

    Example:
        >>> read_pad("16"), read_pad("auto")
        (16, 'auto')
    """
    if text == AUTO:
        return AUTO
    if isinstance(text, bool) or not str(text).isascii() or not str(text).isdigit() or int(text) < 1:
        raise InputError(f"pad: expected a whole number of at least 1, such as 16, or {AUTO}; got {text!r}")
    return int(text)


def _refused(space: Space, candidate: Candidate, step: int | Mapping[str, int]) -> dict[str, str]:
    """The groups that would grow if they could."""
    whole = space.canonical(candidate).widths
    steps = step if isinstance(step, Mapping) else dict.fromkeys(space.widths, step)
    units = {g.name: g.units for g in space.groups}
    return {
        name: reason
        for name, reason in unpaddable(space, candidate).items()
        if whole[name] == candidate.widths[name] < units[name] and candidate.widths[name] % steps.get(name, 1)
    }
