"""What a user may say about a space: widths on offer, what stays whole, what goes together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any, TypedDict

from niwaki.spaces.errors import InputError, nearest
from niwaki.spaces.sparsity import Sparsity

TAS_RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class SpaceOptions:
    """What a search may choose from. Patterns are shell patterns (``*``, ``?``, ``[...]``); lists become tuples.

    Attributes:
        ratios: widths on offer as fractions of the full width (TAS, section 3.1: 0.3 to 1.0).
        step: widths are rounded to multiples of it (hardware staircases); the full width always stays. A mapping
            gives steps to some groups only: pattern of groups -> step; of several that match the last one counts.
        least: groups with fewer units are fixed.
        keep: patterns of groups or module paths that stay whole.
        depth: whether blocks may be removed.
        sparsity: patterns offered to every convolution and linear beside ``dense``, such as ``("0.5", "2:4")``.
        tie: each entry is a pattern of groups, or a list of patterns: all groups that it matches keep equally many
            units. Which ones stays each group's own matter.
        widths: pattern of groups -> widths on offer instead of ``ratios``: whole numbers are units (taken as they are,
            without ``step``), fractions in (0, 1] are ratios. The last pattern that matches counts.

    Raises:
        InputError: a value that means nothing, named with its key.

    Example:
        >>> SpaceOptions(tie=["layer1.*", ["a", "b"]]).tie
        (('layer1.*',), ('a', 'b'))
    """

    ratios: Sequence[float] = TAS_RATIOS
    step: int | Mapping[str, int] = field(default=1, hash=False)
    least: int = 4
    keep: Sequence[str] = ()
    depth: bool = True
    sparsity: Sequence[str] = ()
    tie: Sequence[str | Sequence[str]] = ()
    widths: Mapping[str, Sequence[int | float]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for key in ("ratios", "keep", "sparsity", "tie"):
            object.__setattr__(self, key, _listed(key, getattr(self, key)))
        object.__setattr__(self, "tie", tuple((e,) if isinstance(e, str) else _listed("tie", e) for e in self.tie))
        for key in ("keep", "tie"):
            _check_patterns(key, getattr(self, key))
        if not self.ratios or not all(_number(r) and 0 < r <= 1 for r in self.ratios):
            raise InputError(f"space.ratios: expected fractions in (0, 1], got {self.ratios}")
        steps = self.step.values() if isinstance(self.step, Mapping) else [self.step]
        if not all(_whole(s) and s >= 1 for s in (*steps, self.least - 1)):
            raise InputError(f"space.step must be >= 1 and space.least >= 2, got {self.step} and {self.least}")
        if not isinstance(self.widths, Mapping):
            raise InputError(f"space.widths: expected pattern -> list of widths, got {self.widths!r}")
        restricted = {p: _listed(f"widths[{p!r}]", offered) for p, offered in self.widths.items()}
        for pattern, offered in restricted.items():
            _check_widths(pattern, offered)
        object.__setattr__(self, "widths", restricted)
        for token in self.sparsity:
            _check_token(token)

    def choices(self, units: int, name: str = "") -> tuple[int, ...]:
        """Ascending widths for a group of ``units``; int() truncates as in the TAS code.

        Args:
            units: how many the group has, >= 1.
            name: the group's name, for ``widths`` and ``step`` that are given by pattern.

        Raises:
            InputError: ``widths`` offers the group more units than it has.

        Example:
            >>> SpaceOptions().choices(16)
            (4, 6, 8, 9, 11, 12, 14, 16)
            >>> SpaceOptions(widths={"layer1.*": [8, 0.75]}).choices(16, "layer1.0.conv1")
            (8, 12, 16)
        """
        pattern = _last_match(name, self.widths)
        offered = self.ratios if pattern is None else self.widths[pattern]
        exact = {w for w in offered if _whole(w)} if pattern is not None else set()
        if exact and max(exact) > units:
            raise InputError(f"space.widths[{pattern!r}]: {max(exact)} is more than the {units} units of {name!r}")
        widths = {max(1, int(units * r + 1e-9)) for r in offered if pattern is None or not _whole(r)}
        step = self._step(name)
        if step > 1:
            widths = {min(units, max(step, round(w / step) * step)) for w in widths}
        return tuple(sorted({int(w) for w in exact} | widths | {units}))

    def _step(self, name: str) -> int:
        if not isinstance(self.step, Mapping):
            return self.step
        pattern = _last_match(name, self.step)
        return 1 if pattern is None else self.step[pattern]


class OptionChanges(TypedDict, total=False):
    """The fields of :class:`SpaceOptions` as keywords of ``derive``."""

    ratios: Sequence[float]
    step: int | Mapping[str, int]
    least: int
    keep: Sequence[str]
    depth: bool
    sparsity: Sequence[str]
    tie: Sequence[str | Sequence[str]]
    widths: Mapping[str, Sequence[int | float]]


def changed(options: SpaceOptions | None, changes: Mapping[str, Any]) -> SpaceOptions:
    """``options`` (the defaults where None) with some fields replaced; InputError for a field that does not exist."""
    known = [f.name for f in fields(SpaceOptions)]
    for key in changes:
        if key not in known:
            raise InputError(f"derive: unknown option {key!r}; {nearest(key, known)}")
    return replace(options or SpaceOptions(), **changes)


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern means this name: the name itself, a prefix of its path, or all parts ``#k`` of a layer."""
    return any(fnmatchcase(n, pattern) or n.startswith(f"{pattern}.") for n in (name, name.partition("#")[0]))


def _last_match(name: str, patterns: Mapping[str, Any]) -> str | None:
    return next((p for p in reversed(list(patterns)) if matches(name, p)), None)


def _listed(key: str, value: Any) -> tuple[Any, ...]:
    """A list as a tuple; a bare text would be read letter by letter."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InputError(f"space.{key}: expected a list, got {value!r}")
    return tuple(value)


def _check_patterns(key: str, entries: tuple[Any, ...]) -> None:
    for pattern in (p for e in entries for p in (e if isinstance(e, tuple) else (e,))):
        if not isinstance(pattern, str) or not pattern:
            raise InputError(f"space.{key}: expected names or patterns, got {pattern!r}")


def _check_widths(pattern: str, offered: tuple[Any, ...]) -> None:
    if not offered:
        raise InputError(f"space.widths[{pattern!r}]: expected at least one width")
    for w in offered:
        if not (_whole(w) and w >= 1) and not (isinstance(w, float) and 0 < w <= 1):
            raise InputError(f"space.widths[{pattern!r}]: {w!r} is neither units (1, 2, ...) nor a ratio in (0, 1]")


def _check_token(token: Any) -> None:
    try:
        Sparsity.parse(token)
    except (TypeError, ValueError) as error:
        raise InputError(f"space.sparsity: {error}") from error


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return _whole(value) or isinstance(value, float)
