"""What every proposer begins with at each level of the budget, found without training anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice, zip_longest

import numpy as np

from niwaki.search.aim import Worth, retained
from niwaki.search.config import Config
from niwaki.search.context import RunFolder
from niwaki.search.costing import Limits
from niwaki.search.files import read_json, read_tensors, reading
from niwaki.search.knapsack import knapsack
from niwaki.search.magnitude import magnitude
from niwaki.search.sensitivity import Sensitivity
from niwaki.search.subject import Subject
from niwaki.spaces import Candidate

_SHARE = 4
"""Starts take at most one trial in so many: the rest is the proposer's."""
_VARIANTS: Mapping[str, tuple[float, ...]] = {
    "uniform": (1.0, 0.0, 0.1, 0.3), "knapsack": (1.0,), "magnitude": (0.0, 1.0),
}  # fmt: skip
"""Kind of start -> how much residual streams are cut, as a power of what other groups are; 0 leaves them whole."""


def wanted(config: Config) -> tuple[tuple[str, float], ...]:
    """(kind, power of streams) of the starts at each level: the kinds take turns, as many as the trials allow."""
    search = config.search
    turns = zip_longest(*([(kind, power) for power in _VARIANTS[kind]] for kind in search.starts))
    count = max(1, search.trials // (_SHARE * len(search.levels)))
    return tuple(islice((v for v in chain.from_iterable(turns) if v is not None), count))


def starts(subject: Subject, folder: RunFolder) -> dict[float, tuple[Candidate, ...]]:
    """Level of the budget -> candidates that fit it, each once, from what :mod:`niwaki.search.equip` has written.

    Where none of those wanted fits, the smallest candidate, if that does. The same after a resume.
    """
    space, found = subject.space, {}
    limits = subject.aims.capped(subject.costing(np.array([space.encode(space.largest())], dtype=np.int64)))
    for level in subject.config.search.levels:
        candidates = {c.key: c for c in _fitting(subject, folder, limits.times(level))}
        found[level] = tuple(candidates.values())
    return found


def uniform(subject: Subject, limits: Limits, power: float = 1.0) -> Candidate | None:
    """The largest uniform widths, at full depth and dense, that fit the limits; None where none do.

    Groups that several layers share (residual streams) are cut to ratio ** ``power``: 0 leaves them whole.
    """
    space = subject.space
    ratios = [r / 100 for r in range(100, 0, -1)]
    candidates = list({c.key: c for c in (space.uniform(r, r**power) for r in ratios)}.values())
    matrix = np.array([space.encode(c) for c in candidates], dtype=np.int64)
    fits = limits.fraction(subject.costing(matrix)) <= 1
    return candidates[int(np.argmax(fits))] if fits.any() else None


def worth_of(subject: Subject, folder: RunFolder) -> Worth:
    """What candidates are worth before any training: minus the harm where it was judged, else the scores retained."""
    if folder.sensitivity.is_file():
        with reading(folder.sensitivity):
            return Sensitivity.from_json(read_json(folder.sensitivity)).worth(subject.space)
    return retained(subject.space, read_tensors(folder.scores))


def _fitting(subject: Subject, folder: RunFolder, limits: Limits) -> Iterator[Candidate]:
    space, costing = subject.space, subject.costing
    scores, worth = read_tensors(folder.scores), worth_of(subject, folder)
    make: Mapping[str, Callable[[float], Candidate | None]] = {
        "uniform": lambda power: uniform(subject, limits, power),
        "knapsack": lambda power: knapsack(costing, limits, worth),
        "magnitude": lambda power: magnitude(space, scores, costing, limits, streams=power > 0),
    }
    made = [make[kind](power) for kind, power in wanted(subject.config)]
    yield from (c for c in made if c is not None)
    if made and not any(made) and limits.fits(costing.cost(space.smallest())):
        yield space.smallest()
