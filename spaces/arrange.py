"""Wishes that name groups, applied to the groups that were found: widths, steps, and ties."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from niwaki.spaces.errors import InputError, nearest
from niwaki.spaces.options import SpaceOptions, matches
from niwaki.spaces.types import Group

Ties = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Found:
    """What a pattern may mean: the groups of the space; parts and layers that are none, with what to say of them."""

    groups: tuple[Group, ...]
    others: Mapping[str, str]

    def matching(self, pattern: str, key: str) -> list[Group]:
        """The groups that a pattern means; InputError where there are none, with what it hits instead."""
        found = [g for g in self.groups if matches(g.name, pattern)]
        if found:
            return found
        hit = next((f"{name!r} {what}" for name, what in self.others.items() if matches(name, pattern)), None)
        hint = hit or nearest(pattern, [g.name for g in self.groups])
        raise InputError(f"space.{key}: {pattern!r} matches no group; {hint}")


def arrange(
    groups: Sequence[Group], fixed: Iterable[tuple[str, str]], options: SpaceOptions
) -> tuple[tuple[Group, ...], Ties]:
    """Groups with the widths asked for, and the classes of groups that keep equally many units.

    Args:
        groups: as found, in order.
        fixed: name and reason of every part that may not shrink.
        options: ``widths``, ``step`` and ``tie`` are read.

    Returns:
        The groups, and one tuple of names per class of two or more, both in the order of ``groups``. Groups of a
        class offer the widths that all of them offer.

    Raises:
        InputError: a pattern that matches no group, a tie of unequal groups or of a single one.
    """
    found = Found(tuple(groups), _others(groups, fixed))
    for pattern in options.widths:
        found.matching(pattern, "widths")
    for pattern in options.step if isinstance(options.step, Mapping) else ():
        found.matching(pattern, "step")
    choices = {g.name: options.choices(g.units, g.name) for g in groups}
    ties = _classes(found, options)
    for names in ties:
        shared = set.intersection(*(set(choices[n]) for n in names))
        choices |= dict.fromkeys(names, tuple(sorted(shared)))
    return tuple(replace(g, choices=choices[g.name]) for g in groups), ties


def _others(groups: Sequence[Group], fixed: Iterable[tuple[str, str]]) -> dict[str, str]:
    layers = {
        s.tensor.rpartition(".")[0]: f"belongs to group {g.name!r}"
        for g in groups
        for s in g.slices
        if s.side == "produces"
    }
    return layers | {name: f"is fixed: {reason}" for name, reason in fixed}


def _classes(found: Found, options: SpaceOptions) -> Ties:
    """Groups joined by the entries of ``tie``; entries that share a group join theirs."""
    label = {g.name: g.name for g in found.groups}
    for entry in options.tie:
        patterns = (entry,) if isinstance(entry, str) else tuple(entry)
        members = [g for p in patterns for g in found.matching(p, "tie")]
        names = {g.name for g in members}
        if len(names) < 2:
            raise InputError(
                f"space.tie: {list(patterns)} is the group {members[0].name!r} alone; to tie several patterns to one "
                "another, put them into one list: [[a, b]]"
            )
        first = members[0]
        odd = next((g for g in members if g.units != first.units), None)
        if odd:
            raise InputError(
                f"space.tie: {list(patterns)} ties {first.name!r} with {first.units} units to {odd.name!r} with "
                f"{odd.units}; only groups of one size can be tied"
            )
        joined = {label[n] for n in names}
        label = {n: label[first.name] if old in joined else old for n, old in label.items()}
    classes = [tuple(n for n in label if label[n] == one) for one in dict.fromkeys(label.values())]
    return tuple(c for c in classes if len(c) > 1)
